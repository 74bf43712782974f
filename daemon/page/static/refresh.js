// Shows the page anew every few seconds, without a jump: only what stands in <main> is exchanged.
// Without this script the page is the same, and is reloaded by hand.
"use strict";
const SECONDS = 5;

let underWay = false;

async function refresh() {
  if (underWay || document.hidden || document.activeElement?.name === "q") return;
  underWay = true;
  try {
    const patience = AbortSignal.timeout(SECONDS * 1000);
    const answer = await fetch(location.href, { cache: "no-store", signal: patience });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const parts = ["main", "#now"].map((part) => [document.querySelector(part), fresh.querySelector(part)]);
    // Somebody else may answer in the daemon's place, a proxy, say.
    if (parts.some(([, part]) => part === null)) throw new Error("no page of ours");
    for (const [old, part] of parts) old.replaceWith(part);
    document.title = fresh.title;
    document.body.classList.remove("silent");
  } catch {
    // The daemon does not answer: what stands here is old, and says so.
    document.body.classList.add("silent");
  } finally {
    underWay = false;
  }
}

setInterval(refresh, SECONDS * 1000);

// Shows the page anew every few seconds, without a jump: only what stands in <main> is exchanged.
// Without this script the page is the same, and is reloaded by hand.
"use strict";
const SECONDS = 5;

async function refresh() {
  if (document.hidden || document.activeElement?.name === "q") return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of ["main", "#now"]) {
      document.querySelector(part).replaceWith(fresh.querySelector(part));
    }
    document.title = fresh.title;
    document.body.classList.remove("silent");
  } catch {
    // The daemon does not answer: what stands here is old, and says so.
    document.body.classList.add("silent");
  }
}

setInterval(refresh, SECONDS * 1000);

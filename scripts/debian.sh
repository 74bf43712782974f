# Sourced by scripts/mysql, prometheus and rivals: programs of a Debian suite, for tests and bench, in a
# directory of the repository. They come through a view of apt's own, which leaves the machine's
# packages and lists alone, and are unpacked, not installed. Done once; quick when it is there. Where
# they cannot be had, unavailable in that directory says why, and the tests that need it are skipped.
#
#   begin NAME WHAT   in .NAME; the script ends here when it is done already
#   view SUITE        of the machine's own mirror
#   fetch COMMAND…    of apt-get, in that view
#   unpack FILE…      into $root
#   finish VERSION
# shellcheck shell=bash

begin() {
    what=$2
    home=$PWD/.$1
    root=$home/root
    mkdir -p "$home"
    exec 9>"$home/lock"
    flock 9

    wanted=$(cat "scripts/$1" scripts/debian.sh | sha256sum)
    [ "$(tail -n 1 "$home/ready" 2>/dev/null)" != "$wanted" ] || exit 0
    rm -rf "$home/ready" "$home/unavailable" "$root" "$home/apt"
    work=$(mktemp -d "$home/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT

    for tool in apt-get dpkg dpkg-deb; do
        command -v "$tool" >/dev/null || unavailable "this is no Debian: $tool is missing"
    done
}

unavailable() {
    printf 'no %s: %s\n' "$what" "$1" >&2
    printf '%s\n' "$1" >"$home/unavailable"
    exit 0
}

codename() { (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}"); }

view() {
    suite=$1
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v release="$(codename)" '$1 == release { print $2; exit }')
    [ -n "$mirror" ] || unavailable "apt's sources name no mirror of this release, $(codename)"
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keys" ] || unavailable "$keys is missing"

    archives=$work/cache/archives
    mkdir -p "$work/lists/partial" "$archives/partial" "$work/root"
    printf 'deb [signed-by=%s] %s %s main\n' "$keys" "$mirror" "$suite" >"$work/sources.list"
    options=(
        -o "Dir::Etc::sourcelist=$work/sources.list"
        -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$work/lists"
        -o Dir::State::status=/dev/null # nothing is installed: all that it needs is fetched
        -o Dir::State::extended_states=/dev/null
        -o "Dir::Cache=$work/cache"
        -o APT::Keep-Downloaded-Packages=true
        -o APT::Install-Recommends=false
        -o APT::Sandbox::User=
        -o APT::Update::Error-Mode=any
        -o Acquire::Languages=none
        -o Acquire::Retries=1
        -o Acquire::http::Timeout=20
        -o Debug::NoLocking=1
    )
    printf 'fetching %s from %s %s\n' "$what" "$mirror" "$suite" >&2
    fetch update
}

fetch() {
    (cd "$archives" && apt-get "${options[@]}" -qq "$@") >"$work/log" 2>&1 ||
        unavailable "apt-get $* from $mirror $suite: $(grep -m 1 '^[EW]:' "$work/log" || tail -n 1 "$work/log")"
}

unpack() {
    local archive
    for archive in "$@"; do
        dpkg-deb --extract "$archive" "$work/root" || unavailable "${archive##*/} cannot be unpacked"
    done
    rm -rf "$work/root/usr/share/doc" "$work/root/usr/share/man"
    mv "$work/root" "$root"
}

finish() {
    printf '%s\n' "$1" "$wanted" >"$home/ready"
    printf '%s: %s\n' "$what" "$1" >&2
}

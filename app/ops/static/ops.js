// The page works without this. With it: counters that keep up, and keys.
"use strict";

const SECONDS = 10;
const now = document.getElementById("now");

async function look() {
  if (document.hidden || !now || now.contains(document.activeElement)) return;
  try {
    // Relative to the origin: an address that the password was typed into cannot be fetched from.
    const answer = await fetch(new URL(now.dataset.watch, location.origin), { credentials: "same-origin", signal: AbortSignal.timeout(SECONDS * 1000) });
    if (!answer.ok) return;
    const text = await answer.text();
    // The status line stays the same element, so that what changes in it is read out, and only then.
    const fresh = new DOMParser().parseFromString(text, "text/html");
    now.querySelector(".cards").replaceWith(fresh.querySelector(".cards"));
    const line = now.querySelector(".fresh"), told = fresh.querySelector(".fresh");
    if (line.textContent.trim() !== told.textContent.trim()) line.replaceChildren(...told.childNodes);
  } catch {
    // The next look may succeed; the page says as of when it is.
  }
}
if (now) setInterval(look, SECONDS * 1000);

function step(by) {
  const links = [...document.querySelectorAll(".events .open")];
  if (!links.length) return;
  const row = document.activeElement.closest(".events tbody tr");
  const place = row ? links.indexOf(row.querySelector(".open")) + by : by > 0 ? 0 : links.length - 1;
  links[Math.min(Math.max(place, 0), links.length - 1)].focus();
}

function choose() {
  const row = document.activeElement.closest(".events tbody tr");
  const box = row && row.querySelector("input[type=checkbox]");
  if (box) box.checked = !box.checked;
}

const KEYS = {
  "/": () => { const field = document.getElementById("q"); field.focus(); field.select(); },
  j: () => step(1),
  k: () => step(-1),
  x: choose,
  r: () => { location.href = document.querySelector(".brand").href; },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});

"use strict";
// While the run goes on the page reads itself anew, and keeps what the reader has opened and where
// they are. The longer nothing was written, the longer it waits: a run that was killed says no more.

(() => {
  const { renew } = JSON.parse(document.getElementById("data").textContent);
  if (!renew) return;
  const LONGEST = 3600; // seconds between two looks
  const button = document.getElementById("renew");
  const name = (details) => details.querySelector("summary")?.textContent.trim();
  const pressed = (attribute) => document.querySelector(`button[data-${attribute}][aria-pressed="true"]`)?.dataset[attribute];
  const fields = () => [...document.querySelectorAll("[data-kept]")]; // of the search in answers
  let paused = false;

  function keep() {
    history.replaceState({
      paused,
      top: scrollY,
      open: [...document.querySelectorAll("details[open]")].map(name),
      stage: pressed("stage"),
      axis: pressed("axis"),
      fields: fields().map((field) => [field.id, field.value]),
    }, "");
  }

  function restore(kept) {
    for (const details of document.querySelectorAll("details")) {
      if (kept.open.includes(name(details))) details.open = true;
    }
    for (const attribute of ["stage", "axis"]) {
      const buttons = [...document.querySelectorAll(`button[data-${attribute}]`)];
      buttons.find((each) => each.dataset[attribute] === kept[attribute])?.click();
    }
    for (const [id, value] of kept.fields ?? []) {
      const field = document.getElementById(id);
      if (!field || field.value === value) continue;
      field.value = value;
      field.dispatchEvent(new Event("input"));
    }
    paused = kept.paused;
    scrollTo({ top: kept.top, behavior: "instant" });
  }

  function tell() {
    button.textContent = paused ? "Renew again" : "Do not renew";
  }

  // Whoever marks text, fills in a field or has another window in front is not disturbed.
  const fills = () => document.activeElement?.matches("input:not([type=range]), select") ?? false;
  const busy = () => paused || document.hidden || fills() || !getSelection().isCollapsed;

  function look() {
    if (busy()) return setTimeout(look, 1000);
    keep();
    location.reload();
  }

  button.hidden = false;
  button.addEventListener("click", () => { paused = !paused; tell(); keep(); });
  if (history.state) restore(history.state);
  tell();
  const age = Date.now() / 1000 - renew.written;
  setTimeout(look, 1000 * Math.min(LONGEST, Math.max(renew.seconds, age / 2)));
})();

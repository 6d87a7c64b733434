"use strict";
// Text whose tokens can be pointed at, or gone through with the arrow keys. All of it is set by
// textContent.

const tokens = (() => {
  function made(name, kind, text) {
    const element = document.createElement(name);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function number(value) {
    return String(Number(value.toPrecision(3)));
  }

  function seen(text) { // what would not be seen is written out
    return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "(part of a character)";
  }

  // The reward of an answer, with a mark that says in words as well whether it is right.
  function reward(answer) {
    const mark = { right: "✓ ", wrong: "✗ " }[answer.verdict] ?? "";
    const value = answer.reward === null ? "none" : number(answer.reward);
    const shown = made("span", `reward ${answer.verdict || "none"}`, mark + value);
    shown.setAttribute("aria-label", `${answer.verdict ? `${answer.verdict}, ` : ""}reward ${value}`);
    shown.setAttribute("role", "img");
    return shown;
  }

  // One stop of the tab key with a span for each token; ``tell`` hears which one is looked at, and
  // -1 when none is any more.
  function read(pieces, title, tell) {
    const box = made("p", "read");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", pieces.length > 1 ? `${title}; arrow keys go through its tokens` : title);
    for (const [text, looks] of pieces) box.append(made("span", looks, text));
    let at = -1;
    const go = (to) => {
      box.children[at]?.classList.remove("here");
      at = to;
      if (at >= 0) box.children[at].classList.add("here");
      tell(at);
    };
    box.addEventListener("mouseover", (event) => {
      const index = [...box.children].indexOf(event.target);
      if (index >= 0) go(index);
    });
    box.addEventListener("mouseleave", () => go(-1));
    box.addEventListener("focus", () => { if (at < 0 && box.children.length) go(0); });
    box.addEventListener("blur", () => go(-1));
    box.addEventListener("keydown", (event) => {
      const last = box.children.length - 1;
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: -at, End: last - at };
      if (!(event.key in steps) || last < 0) return;
      event.preventDefault();
      go(Math.min(Math.max(at + steps[event.key], 0), last));
    });
    return box;
  }

  const HELD = { low: "clipped below", high: "clipped above", dual: "clipped far above", stale: "left out as stale" };

  // What the update made of a token, or of several that had the same.
  function inTraining(advantage, held, bounded) {
    if (advantage === null) return "took no part in the update";
    const clip = held ? `, ${HELD[held] ?? held}` : bounded ? ", not clipped" : "";
    return `advantage ${number(advantage)}${clip}`;
  }

  return { made, number, seen, reward, read, inTraining };
})();

"use strict";
// Shows the answers to one prompt at a time, token by token. All text is set by textContent.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const DEEP = [0.01, 0.05, 0.2, 1]; // nats, from which on the colour is deeper
  const HELD = { low: "clipped below", high: "clipped above", dual: "clipped far above", stale: "left out as stale" };
  const place = document.getElementById("pairs");
  const told = document.getElementById("told");
  let shown = 0;

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

  function looks(tokens, at, loop) {
    const level = DEEP.filter((least) => tokens.kl[at] >= least).length;
    const way = tokens.p_after[at] >= tokens.p_before[at] ? "up" : "down";
    const held = tokens.clipped?.[at] ? " held" : "";
    return `tok ${way} u${level}${loop !== null && at >= loop ? " again" : ""}${held}`;
  }

  // Of an answer of the training: what its update made of the token.
  function inTraining(t, at) {
    if (!t.advantage) return "";
    if (t.advantage[at] === null) return "; took no part in the update";
    const held = t.clipped?.[at];
    return `; advantage ${number(t.advantage[at])}${held ? `, ${HELD[held] ?? held}` : t.clipped ? ", not clipped" : ""}`;
  }

  function tell(answer, at) {
    const t = answer.tokens;
    const word = (name) => made("code", "", seen(data.words[t[name][at]]));
    const total = data.totals[answer.of];
    const share = total > 0 ? `, ${number((100 * t.kl[at]) / total)} % of all in the ${data.sets[answer.of]}` : "";
    told.replaceChildren(
      `token ${at + 1}, `, word("text"), ` (${data.words[t.class[at]]}): probability `,
      made("b", "", `${number(t.p_before[at])} → ${number(t.p_after[at])}`),
      `, rank ${t.rank_before[at]} → ${t.rank_after[at]}, entropy ${number(t.entropy_before[at])} → ${number(t.entropy_after[at])}, KL ${number(t.kl[at])} nats${share}; likeliest `,
      word("top_before"), " → ", word("top_after"), inTraining(t, at),
    );
    told.hidden = false;
  }

  // An answer is one stop of the tab key; arrows go through its tokens.
  function read(answer, title) {
    const box = made("p", "read");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `${title}; arrow keys go through its tokens`);
    answer.tokens.text.forEach((word, at) => {
      const text = data.words[word];
      const shown = text === "" ? "▯" : text.replaceAll("\n", "↵\n");
      box.append(made("span", looks(answer.tokens, at, answer.loop), shown));
    });
    let at = -1;
    const go = (to) => {
      box.children[at]?.classList.remove("here");
      at = to;
      if (at < 0) return;
      box.children[at].classList.add("here");
      tell(answer, at);
    };
    box.addEventListener("mouseover", (event) => {
      const index = [...box.children].indexOf(event.target);
      if (index >= 0) go(index);
    });
    box.addEventListener("mouseleave", () => go(-1));
    box.addEventListener("focus", () => { if (at < 0 && box.children.length) go(0); });
    box.addEventListener("blur", () => go(-1));
    box.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: -at, End: box.children.length - 1 - at };
      if (!(event.key in steps)) return;
      event.preventDefault();
      go(Math.min(Math.max(at + steps[event.key], 0), box.children.length - 1));
    });
    return box;
  }

  function column(answer, title) {
    const column = made("div");
    const head = made("h4", "", title);
    if (answer) {
      if (answer.reward !== null) {
        const mark = { right: "✓ ", wrong: "✗ " }[answer.verdict] ?? "";
        const reward = made("span", `reward ${answer.verdict || "none"}`, mark + number(answer.reward));
        reward.setAttribute("aria-label", `${answer.verdict ? `${answer.verdict}, ` : ""}reward ${number(answer.reward)}`);
        reward.setAttribute("role", "img");
        head.append(reward);
      }
      for (const mark of answer.marks) head.append(made("span", "mark", mark));
      column.append(head, read(answer, title));
    } else {
      column.append(head, made("p", "empty", "(empty)"));
    }
    return column;
  }

  function show(to) {
    shown = Math.min(Math.max(to, 0), data.prompts.length - 1);
    told.hidden = true;
    const prompt = data.prompts[shown];
    if (!prompt) return;
    const asked = made("h3", "prompt asked");
    asked.append(made("span", "hidden", "Prompt "));
    for (const [role, text] of prompt.turns) {
      const turn = made("span", role ? "turn" : "");
      if (role) turn.append(made("span", "role", role));
      turn.append(made("span", "model", text));
      asked.append(turn);
    }
    const parts = [asked];
    const own = (of, draw) => prompt.answers.find((one) => one.of === of && one.draw === draw);
    const draws = [...new Set(prompt.answers.filter((one) => one.of === "before" || one.of === "after").map((one) => one.draw))].sort((a, b) => a - b);
    for (const draw of draws) {
      const pair = made("div", "sides draw");
      pair.append(column(own("before", draw), `Base, answer ${draw + 1}`), column(own("after", draw), `Trained, answer ${draw + 1}`));
      parts.push(pair);
    }
    for (const one of prompt.answers.filter((one) => one.of !== "before" && one.of !== "after")) {
      const alone = made("div", "draw");
      alone.append(column(one, data.sets[one.of]));
      parts.push(alone);
    }
    place.replaceChildren(...parts);
    slider.value = String(shown);
    slider.setAttribute("aria-valuetext", `${shown + 1} of ${data.prompts.length}, prompt ${prompt.number}`);
    before.disabled = shown === 0;
    after.disabled = shown === data.prompts.length - 1;
  }

  const slider = document.getElementById("slider");
  const before = document.getElementById("previous");
  const after = document.getElementById("next");
  slider.addEventListener("input", () => show(Number(slider.value)));
  before.addEventListener("click", () => show(shown - 1));
  after.addEventListener("click", () => show(shown + 1));
  show(0);
})();

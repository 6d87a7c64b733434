"use strict";
// Shows the answers to one prompt at a time, token by token. All text is set by textContent.

(() => {
  const { made, number, seen } = tokens;
  const data = JSON.parse(document.getElementById("data").textContent);
  const DEEP = [0.01, 0.05, 0.2, 1]; // nats, from which on the colour is deeper
  const place = document.getElementById("pairs");
  const told = document.getElementById("told");
  let shown = 0;

  function looks(t, at, loop) {
    const level = DEEP.filter((least) => t.kl[at] >= least).length;
    const way = t.p_after[at] >= t.p_before[at] ? "up" : "down";
    const held = t.clipped?.[at] ? " held" : "";
    return `tok ${way} u${level}${loop !== null && at >= loop ? " again" : ""}${held}`;
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
      word("top_before"), " → ", word("top_after"),
      t.advantage ? `; ${tokens.inTraining(t.advantage[at], t.clipped?.[at], t.clipped)}` : "",
    );
    told.hidden = false;
  }

  function read(answer, title) {
    const pieces = answer.tokens.text.map((word, at) => {
      const text = data.words[word];
      return [text === "" ? "▯" : text.replaceAll("\n", "↵\n"), looks(answer.tokens, at, answer.loop)];
    });
    return tokens.read(pieces, title, (at) => { if (at >= 0) tell(answer, at); });
  }

  function column(answer, title) {
    const column = made("div");
    const head = made("h4", "", title);
    if (answer) {
      if (answer.reward !== null) head.append(tokens.reward(answer));
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

"use strict";
// The browser of answers: search, filter, order, page by page. All text is set by textContent.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent).answers;
  const at = (id) => document.getElementById(id);
  if (!data || !at("browser")) return;
  const { made, number } = tokens;
  const PAGE = 20; // answers
  const DEEP = [0.02, 0.3, 0.8, 1.6]; // advantages from which on the colour is deeper
  const KINDS = { before: "before training", train: "in training", after: "after training" };
  const ENDS = { stop: "by itself", length: "cut at the length limit", "": "unknown" };
  const rows = data.rows;
  const steps = [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b);
  const stages = new Set(rows.map((row) => row.stage)).size;
  const texts = new Map(); // row -> what is searched
  let first = 0; // of the page that is shown

  const mean = (advantage) => {
    const known = [advantage].flat().filter((one) => one !== null && one !== undefined);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : -Infinity;
  };
  const held = (row) => (row.clipped ?? []).reduce((sum, [from, to]) => sum + to - from, 0);
  const ORDERS = {
    "newest step first": null,
    "oldest step first": null,
    "highest reward": (row) => row.reward ?? -Infinity,
    "lowest reward": (row) => -(row.reward ?? Infinity),
    "longest": (row) => row.tokens,
    "shortest": (row) => -row.tokens,
  };
  if (rows.some((row) => "advantage" in row)) {
    ORDERS["highest advantage"] = (row) => mean(row.advantage);
    ORDERS["lowest advantage"] = (row) => "advantage" in row ? -mean(row.advantage) : -Infinity;
  }
  if (rows.some(held)) ORDERS["most tokens held back"] = held;
  if (data.parts.length > 1) {
    for (const part of data.parts) {
      ORDERS[`highest ${part}`] = (row) => row.parts[part] ?? -Infinity;
      ORDERS[`lowest ${part}`] = (row) => -(row.parts[part] ?? Infinity);
    }
  }

  function choices(id, options) {
    const select = at(id);
    if (select) select.append(...options.map(([value, text]) => new Option(text, value)));
  }

  const both = (row) => `${row.kind}\n${row.stage}`;
  const different = (of) => [...new Set(rows.map(of))];
  choices("find-order", Object.keys(ORDERS).map((name) => [name, name]));
  choices("find-kind", [["", "at any time"], ...different(both).map((value) => {
    const [kind, stage] = value.split("\n");
    return [value, (KINDS[kind] ?? kind) + (stages > 1 ? `, ${stage}` : "")];
  })]);
  choices("find-verdict", [["", "any"], ["right", "right"], ["wrong", "wrong"], ["none", "not judged"]]);
  choices("find-finish", [["*", "in any way"], ...different((row) => row.finish).sort().map((end) => [end, ENDS[end] ?? end])]);

  function searched(row) {
    if (!texts.has(row)) {
      const asked = data.prompts[row.prompt].turns.map(([, text]) => text).join("\n");
      texts.set(row, `${asked}\n${row.text}`.toLowerCase());
    }
    return texts.get(row);
  }

  const words = () => at("find-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosenStep = () => Number(at("slider").value) - 1; // place in steps; -1: all of them

  function fits() {
    const wanted = words();
    const [kind, verdict, end] = ["find-kind", "find-verdict", "find-finish"].map((id) => at(id)?.value ?? "");
    const [low, high] = ["find-low", "find-high"].map((id) => at(id).value);
    const prompt = at("find-prompt").value;
    const step = chosenStep();
    return (row) =>
      (step < 0 || row.step === steps[step]) &&
      (kind === "" || both(row) === kind) &&
      (verdict === "" || (row.verdict || "none") === verdict) &&
      (end === "*" || row.finish === end) &&
      (low === "" || (row.reward !== null && row.reward >= Number(low))) &&
      (high === "" || (row.reward !== null && row.reward <= Number(high))) &&
      (prompt === "" || row.prompt === Number(prompt)) &&
      wanted.every((word) => searched(row).includes(word));
  }

  function ordered(some) {
    const name = at("find-order").value;
    const of = ORDERS[name];
    if (of) return some.map((row) => [of(row), row]).sort(([a], [b]) => b - a || 0).map(([, row]) => row);
    if (name === "oldest step first") return some;
    const newest = new Map(); // the steps turned round, each of them in its own order
    for (const row of some) {
      if (!newest.has(row.step)) newest.set(row.step, []);
      newest.get(row.step).push(row);
    }
    return [...newest.values()].reverse().flat();
  }

  // An answer as its tokens: coloured by advantage, those that the bound held back marked.
  function pieces(row) {
    if (!("advantage" in row)) return [[row.text, ""]];
    const every = (place) => (Array.isArray(row.advantage) ? row.advantage[place] : row.advantage);
    const looks = (place) => {
      const advantage = every(place);
      const deep = advantage === null ? 0 : DEEP.filter((least) => Math.abs(advantage) >= least).length;
      return `tok ${advantage < 0 ? "down" : "up"} u${deep}${side(row, place) ? " held" : ""}`;
    };
    if (!row.ends) return [[row.text, looks(0)]];
    let from = 0;
    return row.ends.map((end, place) => {
      const text = row.text.slice(from, end);
      from = Math.max(from, end);
      return [text, looks(place)];
    });
  }

  function side(row, place) {
    return row.ends ? (row.clipped ?? []).find(([from, to]) => place >= from && place < to)?.[2] : undefined;
  }

  function tell(row) {
    const told = at("told");
    return (place) => {
      told.hidden = place < 0 || !("advantage" in row);
      if (told.hidden) return;
      const alone = row.ends !== undefined;
      const advantage = Array.isArray(row.advantage) ? (alone ? row.advantage[place] : mean(row.advantage)) : row.advantage;
      const said = tokens.inTraining(advantage, side(row, place), row.clipped && (alone || !held(row)));
      const from = place ? row.ends[place - 1] : 0;
      const shown = alone ? [`token ${place + 1} of ${row.ends.length}, `, made("code", "", tokens.seen(row.text.slice(from, row.ends[place]))), `: ${said}`] : [`every token: ${said}`];
      told.replaceChildren(...shown);
    };
  }

  function answer(row, place) {
    const item = made("li");
    item.append(tokens.reward(row));
    const body = made("div", "answer");
    const text = row.text
      ? tokens.read(pieces(row), `Answer ${place}`, tell(row))
      : made("span", "empty", "(empty)");
    body.append(text);
    if (row.cut) body.append(made("span", "cut", ` … and ${row.cut.toLocaleString("en")} more characters`));
    const marks = [`step ${row.step}`, ...(stages > 1 ? [row.stage] : []), KINDS[row.kind] ?? row.kind];
    if ("advantage" in row) marks.push(`advantage ${Array.isArray(row.advantage) ? `${number(mean(row.advantage))} on average` : number(row.advantage)}`);
    if (held(row)) marks.push(`${held(row)} of ${row.tokens} tokens held back`);
    const line = made("p", "marks");
    for (const mark of [...marks, ...row.marks]) line.append(made("span", "mark", mark));
    body.append(line);
    item.append(body);
    return item;
  }

  function asked(row) {
    const { turns, more } = data.prompts[row.prompt];
    const head = made("h3", "prompt");
    head.append(made("span", "hidden", "Prompt "));
    for (const [role, text, cut] of turns) {
      const turn = made("span", role ? `turn ${["system", "user", "assistant", "tool"].includes(role) ? role : "other"}` : "");
      if (role) turn.append(made("span", "role", role));
      turn.append(text ? made("span", "model", text) : made("span", "empty", "(empty)"));
      if (cut) turn.append(made("span", "cut", ` … and ${cut.toLocaleString("en")} more characters`));
      head.append(turn);
    }
    if (more) head.append(made("span", "cut", ` … and ${more} more ${more === 1 ? "message" : "messages"}`));
    return head;
  }

  function alone(row) {
    const button = made("button", "only", "only this prompt");
    button.type = "button";
    button.addEventListener("click", () => only(row.prompt));
    return button;
  }

  function only(prompt) {
    at("find-prompt").value = String(prompt);
    find();
    at("answers").scrollIntoView();
  }

  // Answers in a row to one prompt stand below it once.
  function show(found) {
    const some = found.slice(first, first + PAGE);
    const parts = [];
    some.forEach((row, place) => {
      const before = some[place - 1];
      if (!before || before.prompt !== row.prompt) {
        const part = made("div", "pair");
        part.append(asked(row), made("ul", "answers"));
        if (at("find-prompt").value === "") part.append(alone(row));
        parts.push(part);
      }
      parts.at(-1).querySelector("ul").append(answer(row, first + place + 1));
    });
    at("shown").replaceChildren(...parts);
    at("told").hidden = true;
    at("pager").hidden = found.length <= PAGE;
    at("page").textContent = found.length ? `${(first + 1).toLocaleString("en")} to ${(first + some.length).toLocaleString("en")} of ${found.length.toLocaleString("en")}` : "";
    at("page-before").disabled = first === 0;
    at("page-after").disabled = first + PAGE >= found.length;
    mark();
  }

  // What was searched is marked where the browser can mark text that stands in several elements.
  function mark() {
    if (!globalThis.Highlight) return;
    const ranges = [];
    const walker = document.createTreeWalker(at("shown"), NodeFilter.SHOW_TEXT);
    for (const word of words()) {
      walker.currentNode = at("shown");
      while (walker.nextNode()) {
        const node = walker.currentNode;
        const text = node.data.toLowerCase();
        if (node.parentElement.closest(".marks, .hidden, button") || text.length !== node.data.length) continue;
        for (let from = text.indexOf(word); from >= 0; from = text.indexOf(word, from + word.length)) {
          const range = new Range();
          range.setStart(node, from);
          range.setEnd(node, from + word.length);
          ranges.push(range);
        }
      }
    }
    CSS.highlights.set("searched", new Highlight(...ranges));
  }

  let found = [];

  function find() {
    found = ordered(rows.filter(fits()));
    first = 0;
    const right = found.filter((row) => row.verdict === "right").length;
    const judged = found.filter((row) => row.verdict).length;
    const rewards = found.map((row) => row.reward).filter((reward) => reward !== null);
    const said = [`${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} answers`];
    if (judged) said.push(`${((100 * right) / judged).toFixed(1)}\u202f% of those judged are right`);
    if (rewards.length) said.push(`mean reward ${number(rewards.reduce((a, b) => a + b, 0) / rewards.length)}`);
    at("found").textContent = said.join(", ");
    const step = chosenStep();
    at("step").textContent = step < 0 ? "all steps" : `step ${steps[step]}`;
    at("slider").setAttribute("aria-valuetext", at("step").textContent);
    at("previous").disabled = step < 0;
    at("next").disabled = step === steps.length - 1;
    const prompt = at("find-prompt").value;
    at("alone").hidden = prompt === "";
    if (prompt !== "") at("alone").firstElementChild.textContent = "Only the answers to one prompt.";
    at("reset").hidden = found.length === rows.length && prompt === "" && step < 0;
    show(found);
  }

  function turn(by) {
    first += by * PAGE;
    show(found);
    at("found").scrollIntoView({ block: "nearest" });
  }

  function step(by) {
    at("slider").value = String(Number(at("slider").value) + by);
    find();
  }

  function reset() {
    for (const id of ["find-text", "find-kind", "find-verdict", "find-low", "find-high", "find-prompt"]) if (at(id)) at(id).value = "";
    at("find-finish").value = "*";
    at("slider").value = "0";
    find();
    at("find-text").focus();
  }

  at("slider").max = String(steps.length);
  for (const field of document.querySelectorAll("#browser [data-kept]")) field.addEventListener("input", find);
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("page-before").addEventListener("click", () => turn(-1));
  at("page-after").addEventListener("click", () => turn(1));
  at("reset").addEventListener("click", reset);
  at("every-prompt").addEventListener("click", () => { at("find-prompt").value = ""; find(); });
  const byKey = new Map(data.prompts.map((prompt, place) => [prompt.key, place]));
  for (const button of document.querySelectorAll("button[data-key]")) {
    button.hidden = !byKey.has(button.dataset.key);
    button.addEventListener("click", () => { reset(); only(byKey.get(button.dataset.key)); });
  }
  at("browser").hidden = false;
  find();
})();

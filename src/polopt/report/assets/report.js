"use strict";
// Draws the plots.
// All text is set by textContent; the numbers come from the JSON block of the page.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const GAP = "\u202f"; // narrow, between number and unit
  const HEIGHT = 190;
  const COLOURS = 6;
  const DASHES = [undefined, [6, 4], [2, 3], [10, 3, 2, 3]]; // of the first six lines, the next six, ...
  const INCREMENTS = [0, 1, 2, 3, 4, 5, 6, 7, 8].flatMap((e) => [1, 2, 5].map((n) => n * 10 ** e));
  const drawn = new Map(); // figure element -> { plot, rows }
  let shownStage = -1; // position in data.stages; -1: all
  let counted = data.taken ? "taken" : "steps"; // what is counted from left to right

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (i) => css(`--c${i % COLOURS}`);
  const dash = (i) => DASHES[Math.floor(i / COLOURS) % DASHES.length];

  function number(value) {
    if (Math.abs(value) >= 10000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(4)));
  }

  function written(value, unit) {
    if (value === null || value === undefined) return "–";
    if (unit === "share") return `${(100 * value).toFixed(1)}${GAP}%`;
    return unit === "seconds" ? `${number(value)}${GAP}s` : number(value);
  }

  // Rows in which at least one line of the plot has a value or a gap, within the stage that is shown.
  function rowsOf(spec) {
    const broken = new Set(spec.lines.flatMap((line) => line.gaps));
    return [...data.steps.keys()].filter(
      (row) =>
        (shownStage === -1 || data.stage[row] === shownStage) &&
        (broken.has(row) || spec.lines.some((line) => line.values[row] !== null)),
    );
  }

  // What uPlot draws: each line once for each stage, so that no line runs from one stage into the
  // next. Stacked lines are sums of themselves and all lines after them. A line breaks at null, and
  // runs on over undefined.
  function pieces(spec, rows) {
    const heights = spec.lines.map((line) => rows.map((row) => line.values[row]));
    const empty = rows.map((_, at) => heights.every((each) => each[at] === null));
    for (let i = heights.length - 1; spec.stacked && i >= 0; i--) {
      heights[i] = heights[i].map((value, at) => empty[at] ? null : (value ?? 0) + (heights[i + 1]?.[at] ?? 0));
    }
    return spec.lines.flatMap((line, i) => {
      const gaps = new Set(line.gaps);
      return data.stages.map((_, stage) => {
        const values = heights[i].map((value, at) => {
          if (data.stage[rows[at]] !== stage) return undefined;
          return value ?? (spec.stacked || gaps.has(rows[at]) ? null : undefined);
        });
        const known = values.filter((value) => value != null).length;
        return { values, known, look: look(spec, i, line.points || known < 3, alone(values)) };
      });
    }).filter((piece) => piece.known > 0).sort((one, other) => one.look.layer - other.look.layer);
  }

  // Where a value has a gap or nothing on both sides, and so no line: it is drawn as a point.
  function alone(values) {
    const told = [...values.keys()].filter((at) => values[at] !== undefined);
    return told.filter((at, i) => values[at] !== null && [told[i - 1], told[i + 1]].every((next) => values[next] == null));
  }

  function look(spec, i, points, lone) {
    const stroke = colour(i);
    if (points) { // hollow ones show what they lie on, and lines run over both
      const fill = i % 2 ? stroke : "#0000";
      return { layer: i % 2 ? 0 : 1, stroke, paths: () => null, points: { show: true, size: 7, width: 1.5, fill } };
    }
    return {
      layer: 2,
      stroke,
      width: spec.stacked ? 1 : 1.75,
      fill: spec.stacked ? stroke : undefined,
      paths: spec.stacked ? uPlot.paths.stepped({ align: -1 }) : undefined,
      dash: DASHES[spec.lines[i].dash],
      points: { show: false, filter: () => (lone.length ? lone : null), size: 4, fill: stroke },
    };
  }

  // The ends of intervals have no look of their own; the scale is to reach as far as they do.
  function ends(spec, rows) {
    const known = spec.lines.flatMap((line) => [line.low, line.high]).filter(Boolean);
    const look = { paths: () => null, points: { show: false }, unseen: true };
    return known.map((end) => ({ values: rows.map((row) => end[row]), look }));
  }

  // The scale from below to above: points and bars lie inside, with some room around them.
  function heights(spec) {
    return (plot, low, high) => {
      if (low === null || low === undefined) return [0, 1];
      const free = spec.unit === "number" && low !== 0 && !spec.stacked;
      const whole = [Math.min(0, low), Math.max(spec.top ?? 0, high) || 1];
      const [from, to] = free ? uPlot.rangeNum(low, high, 0.1, true) : whole;
      const room = 0.05 * (to - from);
      const below = spec.stacked || low - from >= room ? 0 : room;
      return [from - below, to - high >= room ? to : to + room];
    };
  }

  // The same scale from left to right in all plots of the same stages, whatever was recorded first,
  // unless a part of one is enlarged.
  function reach(rows) {
    const stages = new Set(rows.map((row) => data.stage[row]));
    const places = data[counted].filter((_, row) => stages.has(data.stage[row]));
    const [first, last] = [places.reduce((a, b) => Math.min(a, b)), places.reduce((a, b) => Math.max(a, b))];
    const room = 0.015 * (last - first); // for half a point
    const own = rows.map((row) => data[counted][row]);
    return (plot, low, high) => {
      if (low > own[0] || high < own[own.length - 1]) return [low, high];
      return first === last ? [first - 1, last + 1] : [first - room, last + room];
    };
  }

  // The bounds between stages, with the names of the stages, behind the lines.
  function drawStages(plot) {
    if (data.stages.length < 2) return;
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "bottom";
    const at = (step) => plot.valToPos(data[counted][data.steps.lastIndexOf(step)] ?? step, "x", true);
    data.stages.forEach((stage, i) => {
      const left = Math.max(at(stage.start), bbox.left);
      const right = Math.min(at(stage.end), bbox.left + bbox.width);
      if (right <= left) return;
      if (i % 2 === 1) {
        ctx.fillStyle = css("--band");
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
      }
      ctx.fillStyle = css("--muted");
      if (ctx.measureText(stage.name).width < right - left) {
        ctx.fillText(stage.name, left, bbox.top - 2 * devicePixelRatio);
      }
    });
    ctx.restore();
  }

  // 95 % confidence intervals as bars, where there are some.
  function drawIntervals(plot, spec, rows) {
    const { ctx } = plot;
    ctx.save();
    ctx.lineWidth = 1.5 * devicePixelRatio;
    spec.lines.forEach((line, i) => {
      if (!line.low || !line.high) return;
      ctx.strokeStyle = colour(i);
      for (const row of rows) {
        if (line.low[row] === null || line.high[row] === null) continue;
        const x = plot.valToPos(data[counted][row], "x", true);
        ctx.beginPath();
        ctx.moveTo(x, plot.valToPos(line.low[row], "y", true));
        ctx.lineTo(x, plot.valToPos(line.high[row], "y", true));
        ctx.stroke();
      }
    });
    ctx.restore();
  }

  // Alarms that rang, as upright lines; what they are stands below the plot.
  function drawMarks(plot, spec) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = css("--bad");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const step of spec.marks) {
      const x = plot.valToPos(data[counted][data.steps.lastIndexOf(step)] ?? step, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  function options(figure, spec, rows, drawings, width) {
    const axis = {
      stroke: css("--muted"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: css("--line"), width: 1 },
      ticks: { show: false },
    };
    const tick = (value) =>
      spec.unit === "share" ? `${number(100 * value)}${GAP}%` : written(value, spec.unit);
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      padding: [data.stages.length > 1 ? 18 : 8, 18, 0, 0],
      scales: {
        x: { time: false, range: reach(rows) },
        y: { range: heights(spec) },
      },
      axes: [
        { ...axis, grid: { show: false }, values: (plot, steps) => steps.map((step) => step.toLocaleString("en")), size: 22, gap: 4, incrs: INCREMENTS },
        {
          ...axis,
          gap: 6,
          space: 26,
          values: (plot, ticks) => ticks.map(tick),
          size: (plot, ticks) => 16 + 6.4 * Math.max(3, ...(ticks ?? []).map((text) => text.length)),
        },
      ],
      series: [{}, ...drawings.map((piece) => piece.look)],
      cursor: {
        y: false,
        points: { size: (plot, i) => (drawings[i - 1].look.unseen ? 0 : 8), width: 0, fill: (plot, i) => drawings[i - 1].look.stroke },
        drag: { x: true, y: false },
        sync: { key: "step", scales: ["x", null], filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
      },
      hooks: { drawClear: [drawStages], draw: [(plot) => drawIntervals(plot, spec, rows), (plot) => drawMarks(plot, spec)], setCursor: [(plot) => read(figure, spec, rows, plot.cursor.idx)] },
    };
  }

  // Write the values at a row (null: the latest ones) above the plot.
  function read(figure, spec, rows, at) {
    const row = rows[at];
    const stage = data.stages.length > 1 ? `, ${data.stages[data.stage[row]]?.name}` : "";
    const place = data.taken ? `batch ${data.steps[row]}, ${number(data.taken[row] ?? 0)} steps` : `step ${data.steps[row]}`;
    figure.querySelector(".at").textContent = row === undefined ? "latest" : place + stage;
    figure.querySelectorAll(".line b").forEach((place, i) => {
      const { values } = spec.lines[i];
      const latest = rows.findLast((each) => values[each] !== null);
      place.textContent = written(values[row ?? latest], spec.unit);
    });
  }

  function draw(figure) {
    const spec = data.plots[Number(figure.dataset.plot)];
    const rows = rowsOf(spec);
    drawn.get(figure)?.destroy();
    drawn.delete(figure);
    figure.hidden = rows.length === 0;
    if (figure.hidden) return;
    const place = figure.querySelector(".canvas");
    const drawings = [...pieces(spec, rows), ...ends(spec, rows)];
    const columns = [rows.map((row) => data[counted][row]), ...drawings.map((piece) => piece.values)];
    drawn.set(figure, new uPlot(options(figure, spec, rows, drawings, place.clientWidth), columns, place));
    read(figure, spec, rows, null);
  }

  const figures = () => [...document.querySelectorAll("figure.plot")].filter((each) => !each.closest("details:not([open])"));
  const drawAll = () => figures().forEach(draw);

  function watchPlots() {
    drawAll();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    addEventListener("resize", () => {
      for (const [figure, plot] of drawn) {
        plot.setSize({ width: figure.querySelector(".canvas").clientWidth, height: HEIGHT });
      }
    });
    for (const details of document.querySelectorAll("#curves details")) details.addEventListener("toggle", drawAll);
    choice("stage", (stage) => { shownStage = Number(stage); drawAll(); });
    choice("axis", (axis) => { counted = axis; drawAll(); });
  }

  // A group of buttons of which one is pressed; ``chosen`` hears its value.
  function choice(attribute, chosen) {
    const buttons = [...document.querySelectorAll(`button[data-${attribute}]`)];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
        chosen(button.dataset[attribute]);
      });
    }
  }

  watchPlots();
  if (data.watched) watchEpisodes(data.watched, { choice, colour, css, dash, number });
})();

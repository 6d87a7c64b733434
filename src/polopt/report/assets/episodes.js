"use strict";
// Plays the recorded episodes and draws their series; the drawing comes from the JSON block.

function watchEpisodes(watched, { choice, colour, css, dash, number }) {
  const HEIGHT = 130; // of a plot
  const TALLEST = 330; // of a picture
  const TURN = (5 / 6) * Math.PI; // of an arc at an amount of 1
  const TONES = { first: "--c0", second: "--c1", force: "--c3", body: "--body", faint: "--faint", hollow: "--sunken" };
  const mix = (a, b, part) => a + (b - a) * part;

  function unpacked({ q, d }) {
    let sum = 0;
    return d.map((step) => { sum += step; return sum * q; });
  }

  function read(episode) {
    const { drawing, frames } = episode;
    if (drawing) {
      for (const name in drawing.points) drawing.points[name] = drawing.points[name].map(unpacked);
      for (const name in drawing.amounts) drawing.amounts[name] = unpacked(drawing.amounts[name]);
    }
    if (frames) {
      frames.sheet = new Image();
      frames.sheet.addEventListener("load", () => show(at));
      frames.sheet.src = frames.image;
    }
    return {
      ...episode,
      returns: unpacked(episode.returns),
      tracks: episode.tracks.map((track) => ({ ...track, lines: track.lines.map(unpacked) })),
      last: episode.moments - 1,
    };
  }

  let at = 0; // the moment that is shown; between two of them it is a fraction
  let speed = 1;
  let since = null; // when the last picture was drawn; null: it stands
  const episodes = watched.episodes.map(read);
  const last = Math.max(...episodes.map((episode) => episode.last));
  const stepAt = (episode, i) => Math.min(i * watched.every, episode.steps);
  const timeAt = (episode, i) => (watched.timed ? (stepAt(episode, i) * watched.seconds) / watched.every : stepAt(episode, i));

  // ---- pictures

  function paint(canvas, episode) {
    const { drawing, frames } = episode;
    const [left, right, bottom, top] = drawing?.window ?? [0, frames?.width ?? 1, 0, frames?.height ?? 1];
    const width = canvas.parentElement.clientWidth;
    const height = Math.round(Math.min(TALLEST, (width * (top - bottom)) / (right - left)));
    const ratio = devicePixelRatio;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.lineCap = pen.lineJoin = "round";
    if (frames) return paintFrame(pen, frames, width, height, Math.min(Math.floor(at), episode.last));
    if (!drawing) return;
    const i = Math.min(Math.floor(at), episode.last);
    const j = Math.min(i + 1, episode.last);
    const part = i === episode.last ? 0 : at - i;
    const place = (name) => drawing.points[name].map((xs) => mix(xs[i] ?? xs[0], xs[j] ?? xs[0], part));
    const amount = (name) => mix(drawing.amounts[name][i] ?? 0, drawing.amounts[name][j] ?? drawing.amounts[name][i] ?? 0, part);
    const there = (name) => (drawing.amounts[name][i] ?? 0) > 0;
    const scale = Math.min(width / (right - left), height / (top - bottom));
    const eye = drawing.follows ? place(drawing.follows)[0] : (left + right) / 2;
    const middle = drawing.follows ? (left + right) / 2 : 0;
    const to = ([x, y]) => [width / 2 + (x - eye - middle) * scale, height / 2 - (y - (bottom + top) / 2) * scale];
    if (drawing.ground) paintGround(pen, to, scale, eye, width, height);
    for (const shape of drawing.shapes) {
      pen.strokeStyle = pen.fillStyle = css(TONES[shape.tone]);
      paintShape[shape.kind](pen, shape, shape.points.map((name) => to(place(name))), shape.size * scale, amount, there);
    }
  }

  const paintShape = {
    line(pen, shape, places, size, amount, there) {
      if (shape.amount && !there(shape.amount)) return;
      pen.lineWidth = size;
      pen.stroke(along(places));
    },
    area(pen, shape, places, size, amount, there) {
      if (shape.amount && !there(shape.amount)) return;
      const path = along(places);
      path.closePath();
      pen.lineWidth = size;
      pen.stroke(path);
      pen.fill(path);
    },
    disc(pen, shape, [[x, y]], size, amount, there) {
      if (shape.amount && !there(shape.amount)) return;
      pen.beginPath();
      pen.arc(x, y, size, 0, 2 * Math.PI);
      pen.fill();
    },
    arrow(pen, shape, [[x, y]], size, amount) {
      const length = size * amount(shape.amount);
      if (Math.abs(length) < 4) return;
      const head = Math.sign(length) * Math.min(9, Math.abs(length));
      pen.lineWidth = 4;
      pen.stroke(along([[x, y], [x + length - head / 2, y]]));
      pen.fill(along([[x + length, y], [x + length - head, y - 7], [x + length - head, y + 7]]));
    },
    arc(pen, shape, [[x, y]], size, amount) {
      const turn = -TURN * amount(shape.amount); // against the clock where it is above 0
      if (Math.abs(turn) < 0.08) return;
      const end = turn - Math.PI / 2;
      const way = Math.sign(turn);
      const on = (angle, radius) => [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
      const head = Math.min(12 / size, Math.abs(turn));
      pen.lineWidth = 5;
      pen.beginPath();
      pen.arc(x, y, size, -Math.PI / 2, end - (way * head) / 2, way < 0);
      pen.stroke();
      pen.fill(along([on(end, size), on(end - way * head, size - 8), on(end - way * head, size + 8)]));
    },
  };

  function along(places) {
    const path = new Path2D();
    places.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    return path;
  }

  // A floor that moves past, with a mark every tenth of its width and numbers at some.
  function paintGround(pen, to, scale, eye, width, height) {
    const [, floor] = to([eye, 0]);
    const reach = width / scale / 2;
    const step = 10 ** Math.floor(Math.log10(reach / 2));
    pen.fillStyle = css("--line");
    pen.fillRect(0, floor, width, height - floor);
    pen.fillStyle = css("--muted");
    pen.fillRect(0, floor, width, 1.5);
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "bottom";
    for (let k = Math.ceil((eye - reach) / step) - 1; k * step <= eye + reach + step; k++) {
      const [x] = to([k * step, 0]);
      const whole = k % 5 === 0;
      pen.fillRect(x - 0.5, floor, 1, whole ? 9 : 5);
      if (whole && x > 20 && x < width - 20) pen.fillText(`${number(k * step)} m`, x, height - 2);
    }
  }

  function paintFrame(pen, frames, width, height, i) {
    const k = Math.min(frames.count - 1, Math.floor(i / frames.every));
    const scale = Math.min(width / frames.width, height / frames.height);
    const [w, h] = [frames.width * scale, frames.height * scale];
    const [x, y] = [(k % frames.columns) * frames.width, Math.floor(k / frames.columns) * frames.height];
    if (frames.sheet.complete && frames.sheet.naturalWidth) {
      // A pixel inside, or the neighbour on the sheet shines through at the edge.
      pen.drawImage(frames.sheet, x + 1, y + 1, frames.width - 2, frames.height - 2, (width - w) / 2, (height - h) / 2, w, h);
    }
  }

  // ---- series

  let shown = episodes.length - 1; // whose series are shown
  const plots = new Map(); // figure element -> uPlot

  function drawTracks() {
    for (const figure of document.querySelectorAll("figure.track")) {
      plots.get(figure)?.destroy();
      plots.set(figure, drawTrack(figure, Number(figure.dataset.track)));
    }
    follow();
  }

  function drawTrack(figure, index) {
    const { bars, lines } = episodes[shown].tracks[index];
    const place = figure.querySelector(".canvas");
    const times = Array.from({ length: episodes[shown].moments }, (_, i) => timeAt(episodes[shown], i));
    const values = lines.map((line) => times.map((_, i) => line[i] ?? null));
    const axis = { stroke: css("--muted"), font: "11px system-ui, sans-serif", grid: { stroke: css("--line"), width: 1 }, ticks: { show: false } };
    const options = {
      width: place.clientWidth,
      height: bars ? 22 + 28 * lines.length : HEIGHT,
      legend: { show: false },
      padding: [8, 12, 0, bars ? 12 : 0],
      scales: { x: { time: false, range: (plot, low, high) => [low, high > low ? high : low + 1] }, y: { range: () => range(index, bars) } },
      axes: [
        { ...axis, grid: { show: false }, size: 22, gap: 4, values: (plot, ticks) => ticks.map((tick) => number(tick)) },
        { ...axis, show: !bars, gap: 6, space: 26, values: (plot, ticks) => ticks.map((tick) => number(tick)), size: (plot, ticks) => 16 + 6.4 * Math.max(3, ...(ticks ?? []).map((text) => text.length)) },
      ],
      series: [{}, ...lines.map((_, i) => ({ stroke: colour(i), width: 1.5, dash: dash(i), points: { show: false }, paths: bars ? () => null : undefined }))],
      cursor: { y: false, points: { show: !bars, size: 7, width: 0, fill: (plot, i) => colour(i - 1) }, drag: { x: true, y: false }, sync: { key: "episode", scales: ["x", null] } },
      hooks: {
        draw: bars ? [(plot) => drawBars(plot, lines, times)] : [],
        setCursor: [(plot) => tell(figure, lines, bars, plot.cursor.idx)],
      },
    };
    const plot = new uPlot(options, [times, ...values], place);
    let pressed = 0; // where; a drag enlarges, a click seeks
    plot.over.addEventListener("mousedown", (event) => { pressed = event.clientX; });
    plot.over.addEventListener("click", (event) => {
      if (Math.abs(event.clientX - pressed) < 4) seek(plot.cursor.idx ?? 0);
    });
    plot.over.addEventListener("mouseleave", () => queueMicrotask(follow));
    return plot;
  }

  // The same scale before and after.
  function range(index, bars) {
    if (bars) return [0, 1];
    let [low, high] = [Infinity, -Infinity];
    for (const episode of episodes) {
      for (const line of episode.tracks[index].lines) {
        for (const value of line) [low, high] = [Math.min(low, value), Math.max(high, value)];
      }
    }
    return uPlot.rangeNum(low, high, 0.05, true);
  }

  // A bar for every stretch in which a series is above 0, one row for each series.
  function drawBars(plot, lines, times) {
    const { ctx, bbox } = plot;
    const row = bbox.height / lines.length;
    ctx.save();
    lines.forEach((line, k) => {
      const y = bbox.top + k * row + row * 0.18;
      ctx.fillStyle = css("--sunken");
      ctx.fillRect(bbox.left, y, bbox.width, row * 0.64);
      ctx.fillStyle = colour(k);
      for (let i = 0; i < times.length; i++) {
        if (!(line[i] > 0)) continue;
        let end = i;
        while (line[end + 1] > 0) end++;
        const [from, to] = [i, Math.min(end + 1, times.length - 1)].map((m) => plot.valToPos(times[m], "x", true));
        ctx.fillRect(from, y, Math.max(1, to - from), row * 0.64);
        i = end;
      }
    });
    ctx.restore();
  }

  function tell(figure, lines, bars, i) {
    figure.querySelectorAll(".line b").forEach((where, k) => {
      const share = lines[k].filter((value) => value > 0).length / lines[k].length;
      const value = i === null || i === undefined ? undefined : lines[k][Math.min(i, lines[k].length - 1)];
      where.textContent = bars ? `${Math.round(100 * share)}\u202f%` : value === undefined ? "–" : number(value);
    });
  }

  // ---- the moment that is shown

  // Without pictures there is nothing to play: the plots alone are read at a moment.
  const panes = [...document.querySelectorAll(".pane[data-episode]")].map((pane) => {
    const find = (name) => pane.querySelector(name);
    return { pane, episode: episodes[Number(pane.dataset.episode)], canvas: find("canvas"), step: find(".at-step"), time: find(".at-time"), total: find(".at-return") };
  });
  const scrub = document.getElementById("scrub");
  const play = document.getElementById("play");

  function show(moment) {
    at = Math.min(Math.max(moment, 0), last);
    for (const { pane, episode, canvas, step, time, total } of panes) {
      const i = Math.min(Math.floor(at), episode.last);
      paint(canvas, episode);
      pane.classList.toggle("ended", at > episode.last);
      step.textContent = stepAt(episode, i).toLocaleString("en");
      if (time) time.textContent = `${timeAt(episode, i).toFixed(2)}\u202fs`;
      total.textContent = number(episode.returns[i]);
    }
    if (scrub) tellScrub(Math.floor(at));
    follow();
  }

  function tellScrub(i) {
    const longest = episodes.find((episode) => episode.last === last);
    scrub.value = String(i);
    scrub.setAttribute("aria-valuetext", `step ${stepAt(longest, i)}${watched.timed ? `, ${timeAt(longest, i).toFixed(2)} seconds` : ""}`);
  }

  // The plots read the moment that is shown, unless one points at them.
  function follow() {
    if (document.querySelector(".track .u-over:hover")) return;
    const episode = episodes[shown];
    const time = timeAt(episode, Math.min(Math.floor(at), episode.last));
    for (const plot of plots.values()) plot.setCursor({ left: plot.valToPos(time, "x"), top: 0 });
  }

  function seek(moment) {
    if (play) stop();
    show(moment);
  }

  function start() {
    if (at >= last) at = 0;
    since = performance.now();
    play.setAttribute("aria-label", "Pause");
    play.classList.add("playing");
    requestAnimationFrame(advance);
  }

  function stop() {
    since = null;
    play.setAttribute("aria-label", "Play");
    play.classList.remove("playing");
  }

  function advance(now) {
    if (since === null) return;
    const moved = (Math.max(0, now - since) * speed) / 1000 / watched.seconds;
    since = now;
    show(at + moved);
    if (at >= last) stop();
    else requestAnimationFrame(advance);
  }

  function startWhenSeen() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const observer = new IntersectionObserver((seen) => {
      if (!seen.some((one) => one.isIntersecting)) return;
      observer.disconnect();
      if (at === 0 && since === null) start();
    }, { threshold: 0.6 });
    observer.observe(document.querySelector(".panes"));
  }

  function watchControls() {
    document.getElementById("playing").hidden = false;
    scrub.max = String(last);
    scrub.addEventListener("input", () => seek(Number(scrub.value)));
    play.addEventListener("click", () => (since === null ? start() : stop()));
    choice("speed", (value) => { speed = Number(value); });
  }

  choice("shown", (value) => { shown = Number(value); drawTracks(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawTracks(); show(at); });
  addEventListener("resize", () => {
    for (const [figure, plot] of plots) plot.setSize({ width: figure.querySelector(".canvas").clientWidth, height: plot.height });
    show(at);
  });
  if (play) watchControls();
  drawTracks();
  show(0);
  if (play) startWhenSeen();
}

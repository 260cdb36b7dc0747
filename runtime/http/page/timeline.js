// The last seconds of one engine as two lanes, so that the overlap of drafting and verification shows.

const PAD = { top: 18, lane: 52, gap: 26, label: 62 };
const KEPT_S = 20;

/** Return the length of the union of periods, and of its part inside others. */
function covered(periods, others = null) {
  let total = 0;
  const merged = [];
  for (const [start, end] of [...periods].sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else merged.push([start, end]);
  }
  for (const [start, end] of merged) {
    if (!others) total += end - start;
    else for (const [from, to] of others) total += Math.max(0, Math.min(end, to) - Math.max(start, from));
  }
  return total;
}

/** Draws rounds as they arrive. */
export class Timeline {
  constructor(canvas, summary) {
    this.canvas = canvas;
    this.summary = summary;
    this.rounds = [];
    this.dropped = 0;
    this.paused = false;
    this.span = 2;
    this.offset = null;
    this.said = 0;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Add what a `rounds` event brings. */
  push(event) {
    const offset = performance.now() / 1000 - event.now_s;
    // The event that traveled fastest tells best how the clocks differ.
    this.offset = this.offset === null || offset < this.offset || offset > this.offset + 5 ? offset : this.offset;
    this.rounds.push(...event.rounds);
    this.dropped = event.dropped;
    const oldest = event.now_s - KEPT_S;
    this.rounds = this.rounds.filter((round) => round.forward[1] > oldest);
  }

  /** Draw the last seconds; without new rounds, the last ones stay. */
  draw() {
    if (this.paused && this.view) return this.#paint(this.view);
    const latest = this.rounds.at(-1)?.forward[1];
    if (latest === undefined) return this.#paint(null);
    const now = performance.now() / 1000 - this.offset - 0.4; // events come every 0.2 s
    const end = Math.min(now, latest + 0.1 * this.span);
    this.view = { start: end - this.span, end };
    this.#paint(this.view);
    if (performance.now() - this.said > 1000) this.#describe(this.view);
  }

  #colors() {
    const style = getComputedStyle(this.canvas);
    return (name) => style.getPropertyValue(`--${name}`).trim();
  }

  #paint(view) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale)) this.canvas.width = Math.round(width * scale);
    if (this.canvas.height !== Math.round(height * scale)) this.canvas.height = Math.round(height * scale);
    const pen = this.canvas.getContext("2d");
    const color = this.#colors();
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "13px system-ui, sans-serif";
    const lanes = { drafter: PAD.top, target: PAD.top + PAD.lane + PAD.gap };
    for (const [name, y] of Object.entries(lanes)) {
      pen.fillStyle = color("lane");
      pen.fillRect(PAD.label, y, width - PAD.label, PAD.lane);
      pen.fillStyle = color("text");
      pen.fillText(name, 0, y + PAD.lane / 2 + 4);
    }
    if (!view) return;
    const x = (at) => PAD.label + ((at - view.start) / (view.end - view.start)) * (width - PAD.label);
    pen.save();
    pen.beginPath();
    pen.rect(PAD.label, 0, width - PAD.label, height);
    pen.clip();
    for (const round of this.rounds) {
      if (round.forward[1] < view.start - 1 || round.forward[0] > view.end) continue;
      this.#paintRound(pen, color, x, lanes, round);
    }
    pen.restore();
    this.#paintScale(pen, color, x, view, height);
  }

  #paintRound(pen, color, x, lanes, round) {
    const box = ([start, end], y, inset) => {
      const left = x(start);
      pen.fillRect(left, y + inset, Math.max(1, x(end) - left - 1), PAD.lane - 2 * inset);
    };
    const [start, end] = round.forward;
    pen.fillStyle = color("overlap");
    for (const [from, to] of round.drafts) {
      const left = Math.max(from, start);
      const right = Math.min(to, end);
      if (right > left) pen.fillRect(x(left), lanes.drafter, x(right) - x(left), lanes.target + PAD.lane - lanes.drafter);
    }
    pen.fillStyle = color("draft");
    for (const period of round.drafts) box(period, lanes.drafter, 9);
    for (const [from, to] of round.waits) this.#hatch(pen, color("wait"), x(from), x(to), lanes.target + 9);
    pen.fillStyle = color("forward");
    pen.globalAlpha = round.reads_prompts ? 0.55 : 1;
    box(round.forward, lanes.target, 9);
    pen.globalAlpha = 1;
    this.#paintOutcome(pen, color, x(end), lanes.target + PAD.lane, round);
    this.#paintReady(pen, color, x(end), lanes.target - PAD.gap / 2, round);
  }

  /** A dot at a verdict that found a draft ready for it, a ring at one that found none. */
  #paintReady(pen, color, right, y, round) {
    if (!round.hits && !round.misses) return; // in this mode nothing is drafted ahead
    pen.beginPath();
    pen.arc(right, y, 4, 0, 2 * Math.PI);
    if (round.hits) {
      pen.fillStyle = color("accepted-line");
      pen.fill();
    }
    if (round.misses) {
      pen.strokeStyle = color("bad");
      pen.stroke();
    }
  }

  /** Accepted drafts as a column of ticks under the forward that tested them, then the rejected. */
  #paintOutcome(pen, color, right, y, round) {
    const ticks = [
      [Math.min(round.accepted, 6), color("accepted-line")],
      [Math.min(round.rejected, 2), color("bad")],
    ];
    let at = y + 2;
    for (const [count, style] of ticks) {
      pen.fillStyle = style;
      for (let number = 0; number < count; number += 1, at += 4) pen.fillRect(right - 5, at, 4, 3);
    }
  }

  #hatch(pen, style, left, right, y) {
    if (right - left < 1) return;
    pen.save();
    pen.beginPath();
    pen.rect(left, y, right - left, PAD.lane - 18);
    pen.clip();
    pen.strokeStyle = style;
    pen.beginPath();
    for (let at = left - PAD.lane; at < right; at += 5) {
      pen.moveTo(at, y + PAD.lane);
      pen.lineTo(at + PAD.lane, y);
    }
    pen.stroke();
    pen.restore();
  }

  #paintScale(pen, color, x, view, height) {
    const step = this.span / (this.canvas.clientWidth < 420 ? 2 : 4);
    pen.fillStyle = color("soft");
    pen.textAlign = "right";
    for (let ago = 0; ago < this.span; ago += step) {
      pen.fillText(ago ? `-${ago} s` : "now", x(view.end - ago), height - 2);
    }
    pen.textAlign = "left";
  }

  /** Say in words what the picture shows. */
  #describe({ start, end }) {
    this.said = performance.now();
    const seen = this.rounds.filter((round) => round.forward[1] > start && round.forward[0] < end);
    const inside = (periods) =>
      periods.map(([from, to]) => [Math.max(from, start), Math.min(to, end)]).filter(([from, to]) => to > from);
    const forwards = inside(seen.map((round) => round.forward));
    const drafts = inside(seen.flatMap((round) => round.drafts));
    const waits = inside(seen.flatMap((round) => round.waits));
    const drafting = covered(drafts);
    const share = (part, whole) => `${Math.round((100 * part) / (whole || 1))} %`;
    const sum = (name) => seen.reduce((total, round) => total + round[name], 0);
    this.canvas.dataset.rounds = String(seen.length);
    const parts = [
      `${seen.length} rounds in ${this.span} s`,
      `target busy ${share(covered(forwards), this.span)}, waiting ${share(covered(waits), this.span)}`,
      `drafter busy ${share(drafting, this.span)}, ${share(covered(drafts, forwards), drafting)} of it during forwards`,
      `${sum("accepted")} drafts accepted, ${sum("rejected")} rejections`,
    ];
    const verdicts = sum("hits") + sum("misses");
    if (verdicts) parts.push(`a draft was ready for ${sum("hits")} of ${verdicts} verdicts`);
    if (this.dropped) parts.push(`${this.dropped} rounds not shown: the page was too slow`);
    this.summary.textContent = `${parts.join("; ")}.`;
  }
}

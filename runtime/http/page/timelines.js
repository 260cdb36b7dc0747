// A timeline for each replica, one below the other.

import { element } from "./answer.js";
import { Timeline } from "./timeline.js";

/** Shows the rounds of every replica; the page has the first one's place already. */
export class Timelines {
  constructor(container) {
    this.container = container;
    this.shown = new Map();
    for (const figure of container.children) this.#add(figure);
  }

  /** Make a place for each replica that the server has. */
  show(replicas) {
    for (const { replica } of replicas) this.#timeline(replica);
    for (const caption of this.container.querySelectorAll("figcaption")) caption.hidden = this.shown.size < 2;
  }

  /** Add what a `rounds` event brings. */
  push(event) {
    this.#timeline(event.replica).push(event);
  }

  draw() {
    for (const timeline of this.shown.values()) timeline.draw();
  }

  /** Show so many seconds. */
  setSpan(seconds) {
    for (const timeline of this.shown.values()) {
      timeline.span = seconds;
      timeline.view = null;
    }
    this.draw();
  }

  /** Stop or continue all of them; return whether they stand still. */
  togglePause() {
    this.paused = !this.paused;
    for (const timeline of this.shown.values()) timeline.paused = this.paused;
    return this.paused;
  }

  #timeline(replica) {
    return this.shown.get(replica) || this.#add(this.#figure(replica));
  }

  #figure(replica) {
    const summary = element("p", { className: "summary", id: `timeline-summary-${replica}` }, "No rounds yet.");
    const canvas = element("canvas", {
      role: "img",
      "aria-label": `Rounds of replica ${replica}`,
      "aria-describedby": summary.id,
    });
    const figure = element("figure", {}, element("figcaption", {}, `Replica ${replica}`), canvas, summary);
    figure.dataset.replica = replica;
    this.container.append(figure);
    return figure;
  }

  #add(figure) {
    const timeline = new Timeline(figure.querySelector("canvas"), figure.querySelector("p"));
    const first = this.shown.values().next().value;
    if (first) Object.assign(timeline, { span: first.span, paused: first.paused });
    this.shown.set(Number(figure.dataset.replica), timeline);
    return timeline;
  }
}

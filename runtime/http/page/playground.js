// The playground: what is asked, in which mode, and the answers to it.

import { ApiError, answer } from "./api.js";
import { Answer, SOURCES, element } from "./answer.js";
import { Race } from "./race.js";

const TASKS = {
  chat: {
    label: "Your message",
    send: "Send",
    help: "A conversation with the model, by its chat template.",
    placeholder: "Enter sends, Shift+Enter starts a new line",
  },
  completion: {
    label: "Text to continue",
    send: "Continue",
    help: "The model continues a text, without a template.",
    placeholder: "The planets of the solar system are",
  },
  race: {
    label: "Message for both lanes",
    send: "Start the race",
    help: "One message in two modes, one after the other: the same tokens, in different time.",
    placeholder: "List the planets, one a line, with a fact about each.",
  },
};
const NO_DRAFTER = "autoregressive";

const find = (id) => document.getElementById(id);

/** Wires the form, its tabs and the answers. */
export class Playground {
  constructor() {
    this.task = "chat";
    this.turns = [];
    this.shown = [];
    this.running = null;
    this.race = new Race(find("race"), find("detail"));
    this.#wireTabs();
    this.#wireForm();
    this.#show("chat");
    this.#count();
  }

  /** Offer the modes that the server knows. */
  setModes(modes, standard) {
    const key = `${modes} ${standard}`;
    if (this.known === key) return;
    this.known = key;
    const fill = (id, chosen, offersDefault) => {
      const options = modes.map((mode) =>
        element("option", { value: mode }, mode === NO_DRAFTER ? `${mode} (no drafter)` : mode),
      );
      if (offersDefault) options.unshift(element("option", { value: "" }, `server's: ${standard}`));
      find(id).replaceChildren(...options);
      find(id).value = chosen;
    };
    fill("mode", "", true);
    fill("mode-a", standard === NO_DRAFTER ? modes.at(-1) : standard, false);
    fill("mode-b", NO_DRAFTER, false);
  }

  #wireTabs() {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    for (const [index, tab] of tabs.entries()) {
      tab.addEventListener("click", () => this.#show(tab.dataset.task));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = tabs[(index + step + tabs.length) % tabs.length];
        this.#show(next.dataset.task);
        next.focus();
      });
    }
  }

  #wireForm() {
    find("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    find("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        find("ask").requestSubmit();
      }
    });
    find("stop").addEventListener("click", () => this.running?.abort());
    find("clear").addEventListener("click", () => this.#clear());
    find("replay").addEventListener("click", () => this.race.replay());
  }

  #show(task) {
    this.running?.abort();
    this.task = task;
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const isShown = tab.dataset.task === task;
      tab.setAttribute("aria-selected", String(isShown));
      tab.tabIndex = isShown ? 0 : -1;
    }
    const work = find("work");
    work.dataset.task = task;
    work.setAttribute("aria-labelledby", `tab-${task}`);
    for (const part of work.querySelectorAll("[data-for]")) {
      part.hidden = !part.dataset.for.split(" ").includes(task);
    }
    find("prompt-label").textContent = TASKS[task].label;
    find("prompt").placeholder = TASKS[task].placeholder;
    find("send").textContent = TASKS[task].send;
    find("task-help").textContent = TASKS[task].help;
    this.#say("");
    this.#count();
  }

  #say(text, kind = "") {
    const message = find("message");
    message.textContent = text;
    message.dataset.kind = kind;
  }

  #body() {
    const body = {
      max_tokens: find("max-tokens").valueAsNumber,
      temperature: find("temperature").valueAsNumber,
    };
    if (find("seed").value !== "") body.seed = find("seed").valueAsNumber;
    // Both lanes need one seed; sampled tokens are a function of it.
    else if (this.task === "race") body.seed = Math.floor(Math.random() * 2 ** 31);
    return body;
  }

  async #ask() {
    const text = find("prompt").value;
    if (this.running) return;
    if (!text.trim()) {
      this.#say("Write something first.", "error");
      find("prompt").focus();
      return;
    }
    this.running = new AbortController();
    find("send").disabled = find("replay").disabled = true;
    find("stop").disabled = false;
    this.#say("The server answers.");
    const counting = setInterval(() => this.#count(), 150);
    try {
      this.#say(await this.#run(text, this.running.signal));
      find("replay").disabled = this.task !== "race";
    } catch (error) {
      this.#fail(error);
    } finally {
      clearInterval(counting);
      this.running = null;
      find("send").disabled = false;
      find("stop").disabled = true;
      this.#count();
    }
  }

  #fail(error) {
    if (error.name === "AbortError") this.#say("Stopped.");
    else if (error instanceof ApiError) {
      if (error.status === 401) find("access").open = true;
      this.#say(error.message, "error");
    } else this.#say(`The server was unreachable: ${error.message}`, "error");
  }

  async #run(text, signal) {
    const body = this.#body();
    if (this.task === "race") {
      const modes = [find("mode-a").value, find("mode-b").value];
      const messages = [{ role: "user", content: text }];
      const racing = this.race.run({ ...body, messages }, modes, signal);
      return racing;
    }
    if (find("mode").value) body.mode = find("mode").value;
    return this.task === "chat" ? this.#chat(body, text, signal) : this.#complete(body, text, signal);
  }

  async #chat(body, text, signal) {
    const messages = [...this.turns, { role: "user", content: text }];
    const made = new Answer(`Answer ${this.shown.length + 1}`, find("detail"));
    const user = element("div", { className: "turn user" }, element("span", { className: "who" }, "You"), text);
    const turn = element("div", { className: "turn" }, element("span", { className: "who" }, "Model"), made.element);
    find("turns").append(user, turn);
    find("prompt").value = "";
    try {
      const said = await this.#follow(made, { ...body, messages }, signal);
      this.turns = [...messages, { role: "assistant", content: made.text }];
      return said;
    } catch (error) {
      if (made.tokens.length) this.turns = [...messages, { role: "assistant", content: made.text }];
      else {
        user.remove();
        turn.remove();
        find("prompt").value = text;
      }
      throw error;
    }
  }

  async #complete(body, text, signal) {
    const made = new Answer("Continuation", find("detail"));
    const turn = element("div", { className: "turn" }, element("span", { className: "who" }, "Text"));
    turn.append(element("span", { className: "hint" }, text), made.element);
    find("answers").prepend(turn);
    return this.#follow(made, { ...body, prompt: text }, signal);
  }

  async #follow(made, body, signal) {
    this.shown = this.shown.filter((one) => one.element.isConnected).concat(made);
    let usage = null;
    try {
      for await (const event of answer(body, signal)) {
        made.push(event);
        usage = event.usage || usage;
      }
    } finally {
      made.finish();
    }
    const { first, rate } = made.speed();
    const { rounds } = usage.speculation;
    return (
      `${made.tokens.length} tokens, ${rate.toFixed(1)} a second, the first after ${first.toFixed(2)} s; ` +
      `${rounds} forwards of the target.`
    );
  }

  #clear() {
    this.running?.abort();
    if (this.task === "race") this.race.clear();
    find(this.task === "chat" ? "turns" : this.task === "race" ? "race" : "answers").replaceChildren();
    if (this.task === "chat") this.turns = [];
    find("replay").disabled = true;
    this.#say("");
    this.#count();
    find("prompt").focus();
  }

  /** Show the sources of the tokens that the present task has on the page. */
  #count() {
    const isShown = (one) => one.element.isConnected && !one.element.closest("[hidden]");
    const answers = [...this.shown, ...this.race.answers].filter(isShown);
    const totals = answers.map((one) => one.counts());
    find("legend").replaceChildren(
      ...Object.keys(SOURCES).map((source) => {
        const total = totals.reduce((sum, counts) => sum + counts[source], 0);
        const key = element("i", { className: `key ${source}` });
        const number = element("b", {}, String(total));
        number.dataset.source = source;
        return element("li", {}, key, source, number);
      }),
    );
  }
}

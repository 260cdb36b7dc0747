// Starts the page: its colors, its token, and the stream of the engine's events.

import { ApiError, engineEvents, setToken } from "./api.js";
import { EnginePanel } from "./engine.js";
import { Playground } from "./playground.js";
import { Timelines } from "./timelines.js";

const find = (id) => document.getElementById(id);
const RETRY_MS = 2000;

const playground = new Playground();
const panel = new EnginePanel(find("engine"));
const timelines = new Timelines(find("timelines"));
let wake = () => {};

function startColors() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const choice = find("theme");
  choice.value = localStorage.getItem("paceline.theme") || "auto";
  const apply = () => {
    const isDark = choice.value === "dark" || (choice.value === "auto" && system.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    timelines.draw();
  };
  choice.addEventListener("change", () => {
    localStorage.setItem("paceline.theme", choice.value);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

function startToken() {
  find("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(find("token").value);
    find("access").open = false;
    wake();
  });
}

function startTimeline() {
  const pause = find("pause");
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(timelines.togglePause()));
  });
  find("span").addEventListener("change", (event) => {
    timelines.setSpan(Number(event.target.value));
  });
  const frame = () => {
    if (!timelines.paused) timelines.draw();
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

function showState(state, model = null) {
  find("state").textContent = state;
  find("state").dataset.state = state;
  if (model !== null) find("model").textContent = model;
}

async function follow() {
  for (;;) {
    try {
      for await (const { name, data } of engineEvents()) {
        if (name === "rounds") timelines.push(data);
        if (name !== "status") continue;
        showState(data.state, `${data.model}, version ${data.version}`);
        playground.setModes(data.modes, data.default_mode);
        panel.show(data);
        timelines.show(data.replicas);
      }
      showState("offline");
    } catch (error) {
      const isLocked = error instanceof ApiError && error.status === 401;
      showState(isLocked ? "locked" : "offline");
      if (isLocked) find("access").open = true;
    }
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, RETRY_MS);
    });
  }
}

startColors();
startToken();
startTimeline();
follow();

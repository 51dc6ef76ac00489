// The page that `srgan-edge compare` writes: two layers at a time, by slider, side by side, or as
// their difference, with one zoom and one clock for both. No framework and nothing from elsewhere.
// @ts-check
"use strict";

/**
 * @typedef {{label: string, values: string[], best: number[]}} Row
 * @typedef {{name: string, kind: "image" | "video", type: string, blocks: boolean,
 *            width: number, height: number}} Layer
 *     Width and height of the medium in the coordinates of the page; a video may have an even
 *     number of pixels where the page has one less.
 * @typedef {{width: number, height: number, layers: Layer[], rows: Row[], times: number[],
 *            end: number, start: [number, number], notes: string[]}} Facts
 *     `times` has the start of each frame in seconds, `end` the end of the last one.
 */

const MAX_ZOOM = 64;
const GRID_FROM = 12; // screen pixels a pixel, from which on the grid is drawn
const CRISP_FROM = 2; // and from which on pixels are squares

const KEYS = [
  ["S  P  D", "slider, side by side, difference"],
  ["0  1", "fit, 100 %"],
  ["+  −", "zoom in, zoom out"],
  ["Arrows", "move the images, or the divider when it has the focus"],
  ["[  ]", "another layer on the right"],
  ["X", "swap left and right"],
];
const VIDEO_KEYS = [
  ["Space", "play, pause"],
  [",  .", "previous, next frame"],
  ["I  O", "loop from here, to here"],
];

/** @template {HTMLElement} T @param {string} id @param {new () => T} kind @returns {T} */
function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`no ${id}`);
  return found;
}

/** @type {Facts} */
const facts = JSON.parse(element("facts-json", HTMLScriptElement).text);
const isVideo = facts.layers.some((layer) => layer.kind === "video");

const isFramed = window.parent !== window; // by the page of `serve`, which shows the name itself
const view = element("view", HTMLElement);
const divider = element("divider", HTMLElement);

// ---- Media -------------------------------------------------------------------------------------

/** @type {Map<number, string>} */
const addresses = new Map();

/** @param {number} index @returns {string} an address of the layer's bytes, made once */
function addressOf(index) {
  const known = addresses.get(index);
  if (known !== undefined) return known;
  const holder = element(`media-${index}`, HTMLScriptElement);
  const bytes = Uint8Array.from(atob(holder.text.trim()), (letter) => letter.charCodeAt(0));
  const made = URL.createObjectURL(new Blob([bytes], { type: facts.layers[index].type }));
  addresses.set(index, made);
  holder.remove();
  return made;
}

/** One half of the view: shows any layer, and keeps those that were shown. */
class Pane {
  /** @param {"left" | "right"} side @param {number} index */
  constructor(side, index) {
    this.root = element(`pane-${side}`, HTMLElement);
    this.media = /** @type {HTMLElement} */ (this.root.querySelector(".media"));
    this.label = /** @type {HTMLElement} */ (this.root.querySelector(".name"));
    /** @type {Map<number, HTMLImageElement | HTMLVideoElement>} */
    this.elements = new Map();
    this.index = index;
    this.media.style.width = `${facts.width}px`;
    this.media.style.height = `${facts.height}px`;
  }

  /** @param {number} index */
  show(index) {
    this.index = index;
    const layer = facts.layers[index];
    if (!this.elements.has(index)) this.elements.set(index, this.open(index, layer));
    for (const [other, shown] of this.elements) shown.classList.toggle("shown", other === index);
    this.label.textContent = layer.name;
  }

  /** @param {number} index @param {Layer} layer */
  open(index, layer) {
    const made = document.createElement(layer.kind === "video" ? "video" : "img");
    if (made instanceof HTMLVideoElement) {
      made.muted = true;
      made.playsInline = true;
      made.preload = "auto";
    } else {
      made.alt = layer.name;
      made.decoding = "async";
    }
    made.draggable = false;
    made.style.width = `${layer.width}px`;
    made.style.height = `${layer.height}px`;
    made.classList.toggle("blocks", layer.blocks);
    made.src = addressOf(index);
    this.media.append(made);
    return made;
  }

  /** @returns {HTMLVideoElement | null} */
  get video() {
    const shown = this.elements.get(this.index);
    return shown instanceof HTMLVideoElement ? shown : null;
  }
}

const last = facts.layers.length - 1;
const left = new Pane("left", facts.start[0]);
const right = new Pane("right", facts.start[1]);

// ---- Position ----------------------------------------------------------------------------------

let mode = "slider";
let zoom = 1; // CSS pixels a pixel of the page
let fitted = true;
let share = 50; // of the width, left of the divider, in percent
const center = { x: facts.width / 2, y: facts.height / 2 };

/** @returns {{width: number, height: number}} the size of one pane */
function paneSize() {
  const { clientWidth: width, clientHeight: height } = left.root;
  return { width, height };
}

function fitZoom() {
  const { width, height } = paneSize();
  return Math.min(width / facts.width, height / facts.height, MAX_ZOOM);
}

function wholeZoom() {
  return 1 / window.devicePixelRatio;
}

/** @param {number} value @param {number} low @param {number} high */
function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function draw() {
  const { width, height } = paneSize();
  if (fitted) {
    zoom = fitZoom();
    center.x = facts.width / 2;
    center.y = facts.height / 2;
  }
  center.x = clamp(center.x, 0, facts.width);
  center.y = clamp(center.y, 0, facts.height);
  const screenZoom = zoom * window.devicePixelRatio;
  const x = Math.round((width / 2 - center.x * zoom) * devicePixelRatio) / devicePixelRatio;
  const y = Math.round((height / 2 - center.y * zoom) * devicePixelRatio) / devicePixelRatio;
  for (const pane of [left, right]) {
    pane.media.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
    pane.root.classList.toggle("crisp", screenZoom >= CRISP_FROM);
    pane.root.classList.toggle("gridded", screenZoom >= GRID_FROM && mode !== "difference");
    const grid = /** @type {HTMLElement} */ (pane.root.querySelector(".grid"));
    grid.style.backgroundSize = `${zoom}px ${zoom}px`;
    grid.style.backgroundPosition = `${x}px ${y}px`;
  }
  const fromLeft = (width * share) / 100;
  divider.style.left = `${fromLeft}px`;
  divider.setAttribute("aria-valuenow", String(Math.round(share)));
  divider.setAttribute("aria-valuetext", `${Math.round(share)} % of the width is the left one`);
  right.root.style.clipPath = mode === "slider" ? `inset(0 0 0 ${fromLeft}px)` : "";
  left.root.style.clipPath = mode === "slider" ? `inset(0 ${width - fromLeft}px 0 0)` : "";
  const percent = 100 * screenZoom;
  element("zoom", HTMLOutputElement).value = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
}

/** Zoom by a factor around a point of a pane, which stays where it is.
 *  @param {number} factor @param {{x: number, y: number}} [at] in CSS pixels */
function zoomBy(factor, at) {
  const { width, height } = paneSize();
  const point = at ?? { x: width / 2, y: height / 2 };
  const before = zoom;
  zoom = clamp(zoom * factor, Math.min(fitZoom(), wholeZoom()) / 2, MAX_ZOOM / devicePixelRatio);
  center.x += (point.x - width / 2) * (1 / before - 1 / zoom);
  center.y += (point.y - height / 2) * (1 / before - 1 / zoom);
  fitted = false;
  draw();
}

/** @param {number} x @param {number} y in CSS pixels */
function panBy(x, y) {
  center.x -= x / zoom;
  center.y -= y / zoom;
  fitted = false;
  draw();
}

/** @param {number} value in percent */
function divideAt(value) {
  share = clamp(value, 0, 100);
  draw();
}

function fit() {
  fitted = true;
  draw();
}

function whole() {
  fitted = false;
  zoom = wholeZoom();
  draw();
}

/** @param {string} name */
function setMode(name) {
  mode = name;
  view.dataset.mode = name;
  element("modes", HTMLFieldSetElement).querySelectorAll("input").forEach((input) => {
    input.checked = input.value === name;
  });
  const gain = element("gain", HTMLSelectElement);
  /** @type {HTMLElement} */ (gain.closest(".gain")).hidden = name !== "difference";
  view.style.setProperty("--gain", gain.value);
  draw();
}

// ---- Layers ------------------------------------------------------------------------------------

/** @param {Pane} pane @param {number} index */
function choose(pane, index) {
  const side = pane === left ? "left" : "right";
  const radios = element(side, HTMLFieldSetElement).querySelectorAll("input");
  radios.forEach((input, number) => (input.checked = number === index));
  pane.video?.pause();
  pane.show(index);
  if (isVideo) seek(frame);
}

function swap() {
  const [former, latter] = [left.index, right.index];
  choose(left, latter);
  choose(right, former);
}

function makeChoices() {
  for (const [pane, side] of /** @type {[Pane, string][]} */ ([[left, "left"], [right, "right"]])) {
    facts.layers.forEach((layer, index) => {
      const [label, input, text] = ["label", "input", "span"].map((tag) => document.createElement(tag));
      Object.assign(input, { type: "radio", name: side, value: String(index) });
      input.addEventListener("change", () => choose(pane, index));
      text.textContent = layer.name;
      label.append(input, text);
      element(side, HTMLFieldSetElement).append(label);
    });
  }
}

// ---- Playback ----------------------------------------------------------------------------------

let frame = 0;
let playing = false;
let loop = { first: 0, last: Math.max(0, facts.times.length - 1) };

/** @param {number} index @returns {number} the middle of a frame in seconds: no browser rounds it
 *  to a neighbor */
function middleOf(index) {
  const next = index + 1 < facts.times.length ? facts.times[index + 1] : facts.end;
  return (facts.times[index] + next) / 2;
}

/** @param {number} seconds @returns {number} the frame shown at that time */
function frameAt(seconds) {
  let [low, high] = [0, facts.times.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (facts.times[middle] <= seconds + 1e-4) low = middle;
    else high = middle - 1;
  }
  return low;
}

function videos() {
  return [left.video, right.video].filter((video) => video !== null);
}

/** @param {number} index */
function seek(index) {
  frame = clamp(index, 0, facts.times.length - 1);
  for (const video of videos()) video.currentTime = middleOf(frame);
  tell();
}

function tell() {
  element("frame", HTMLInputElement).value = String(frame);
  const looped = loop.first > 0 || loop.last < facts.times.length - 1;
  const range = looped ? `, loop ${loop.first + 1} to ${loop.last + 1}` : "";
  element("time", HTMLOutputElement).value =
    `frame ${frame + 1} of ${facts.times.length}, ${facts.times[frame].toFixed(3)} s${range}`;
}

async function play() {
  if (frame < loop.first || frame >= loop.last) seek(loop.first);
  playing = true;
  showPlaying();
  const speed = Number(element("speed", HTMLSelectElement).value);
  for (const video of videos()) video.playbackRate = speed;
  await Promise.all(videos().map((video) => video.play().catch(() => pause())));
  requestAnimationFrame(follow);
}

function pause() {
  playing = false;
  showPlaying();
  for (const video of videos()) video.pause();
  seek(frame);
}

function showPlaying() {
  const button = element("play", HTMLButtonElement);
  button.textContent = playing ? "❙❙" : "▶";
  button.setAttribute("aria-label", playing ? "Pause" : "Play");
}

/** Keep the right video at the time of the left one, and both within the loop. */
function follow() {
  if (!playing) return;
  const [first, second] = videos();
  frame = frameAt(first.currentTime);
  const speed = Number(element("speed", HTMLSelectElement).value);
  if (frame > loop.last || first.ended || (frame === loop.last && first.currentTime >= middleOf(frame))) {
    frame = loop.first; // however late this comes, no frame behind the loop is named
    for (const video of videos()) {
      video.currentTime = middleOf(frame);
      video.play().catch(() => pause());
    }
  } else if (second) {
    const behind = first.currentTime - second.currentTime;
    if (Math.abs(behind) > 0.25) second.currentTime = first.currentTime;
    second.playbackRate = clamp(speed * (1 + clamp(2 * behind, -0.5, 0.5)), 0.0625, 16);
  }
  tell();
  requestAnimationFrame(follow);
}

/** @param {number} by */
function step(by) {
  if (playing) pause();
  seek(frame + by);
}

/** @param {number} first @param {number} end */
function setLoop(first, end) {
  loop = { first: Math.min(first, end), last: Math.max(first, end) };
  tell();
}

// ---- Pointers and keys -------------------------------------------------------------------------

/** @type {Map<number, {x: number, y: number}>} */
const pointers = new Map();
let dividing = false;

/** @param {PointerEvent | WheelEvent} event @returns {{x: number, y: number}} within its pane */
function placeOf(event) {
  const inRight = mode === "pair" && right.root.contains(document.elementFromPoint(event.clientX, event.clientY));
  const box = (inRight ? right : left).root.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

view.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  dividing = divider.contains(/** @type {Node} */ (event.target));
  view.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  view.classList.toggle("dragging", !dividing);
});

view.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = { x: event.clientX, y: event.clientY };
  const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  pointers.set(event.pointerId, now);
  if (dividing) {
    const box = view.getBoundingClientRect();
    divideAt((100 * (now.x - box.left)) / box.width);
  } else if (others.length) {
    const [fixed] = others;
    const spread = (/** @type {{x: number, y: number}} */ place) => Math.hypot(place.x - fixed.x, place.y - fixed.y);
    const box = left.root.getBoundingClientRect();
    const middle = { x: (now.x + fixed.x) / 2 - box.left, y: (now.y + fixed.y) / 2 - box.top };
    panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
    zoomBy(spread(now) / Math.max(1, spread(before)), middle);
  } else {
    panBy(now.x - before.x, now.y - before.y);
  }
});

for (const name of ["pointerup", "pointercancel"]) {
  view.addEventListener(name, (event) => {
    pointers.delete(/** @type {PointerEvent} */ (event).pointerId);
    view.classList.remove("dragging");
    if (!pointers.size) dividing = false;
  });
}

view.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    zoomBy(2 ** (-event.deltaY / (event.deltaMode ? 8 : 240)), placeOf(event));
  },
  { passive: false },
);

view.addEventListener("dblclick", () => (fitted ? whole() : fit()));

divider.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -100, End: 100 }[event.key];
  if (by === undefined) return;
  divideAt(share + by * (event.shiftKey ? 5 : 1));
  event.preventDefault();
  event.stopPropagation();
});

/** @type {Record<string, () => void>} */
const ACTIONS = {
  s: () => setMode("slider"),
  p: () => setMode("pair"),
  d: () => setMode("difference"),
  0: fit,
  1: whole,
  "+": () => zoomBy(Math.SQRT2),
  "=": () => zoomBy(Math.SQRT2),
  "-": () => zoomBy(Math.SQRT1_2),
  x: swap,
  "[": () => choose(right, (right.index + last) % (last + 1)),
  "]": () => choose(right, (right.index + 1) % (last + 1)),
  "?": () => element("help", HTMLDialogElement).showModal(),
  ArrowLeft: () => panBy(paneSize().width / 10, 0),
  ArrowRight: () => panBy(-paneSize().width / 10, 0),
  ArrowUp: () => panBy(0, paneSize().height / 10),
  ArrowDown: () => panBy(0, -paneSize().height / 10),
};
/** @type {Record<string, () => void>} */
const VIDEO_ACTIONS = {
  " ": () => void (playing ? pause() : play()),
  ",": () => step(-1),
  ".": () => step(1),
  i: () => setLoop(frame, loop.last),
  o: () => setLoop(loop.first, frame),
};

document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.ctrlKey || event.metaKey || event.altKey || element("help", HTMLDialogElement).open) return;
  if (target.matches("select")) return;
  if (target.matches("input") && event.key.startsWith("Arrow")) return;
  if (target.matches("button, [type=radio]") && event.key === " ") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = ACTIONS[key] ?? (isVideo ? VIDEO_ACTIONS[key] : undefined);
  if (!action) return;
  action();
  event.preventDefault();
});

/** @param {string} id @param {() => void} action */
function onClick(id, action) {
  element(id, HTMLButtonElement).addEventListener("click", action);
}

function connect() {
  onClick("fit", fit);
  onClick("whole", whole);
  onClick("in", () => zoomBy(Math.SQRT2));
  onClick("out", () => zoomBy(Math.SQRT1_2));
  onClick("swap", swap);
  onClick("keys", ACTIONS["?"]);
  onClick("theme", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  element("modes", HTMLFieldSetElement).addEventListener("change", (event) => {
    setMode(/** @type {HTMLInputElement} */ (event.target).value);
  });
  element("gain", HTMLSelectElement).addEventListener("change", () => setMode(mode));
  new ResizeObserver(draw).observe(view);
}

function connectPlayer() {
  element("player", HTMLElement).hidden = false;
  element("frame", HTMLInputElement).max = String(facts.times.length - 1);
  element("frame", HTMLInputElement).addEventListener("input", (event) => {
    if (playing) pause();
    seek(Number(/** @type {HTMLInputElement} */ (event.target).value));
  });
  element("speed", HTMLSelectElement).addEventListener("change", () => {
    if (playing) void play();
  });
  onClick("play", VIDEO_ACTIONS[" "]);
  onClick("back", () => step(-1));
  onClick("forward", () => step(1));
  onClick("loop-in", VIDEO_ACTIONS.i);
  onClick("loop-out", VIDEO_ACTIONS.o);
  onClick("loop-all", () => setLoop(0, facts.times.length - 1));
}

// ---- Facts -------------------------------------------------------------------------------------

function tabulate() {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  head.append(document.createElement("td"));
  for (const layer of facts.layers) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = layer.name;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const row of facts.rows) {
    const line = body.insertRow();
    const label = document.createElement("th");
    label.scope = "row";
    label.textContent = row.label;
    line.append(label);
    row.values.forEach((value, index) => {
      const cell = line.insertCell();
      cell.textContent = value;
      cell.classList.toggle("best", row.best.includes(index));
    });
  }
  const section = element("facts", HTMLElement);
  section.append(table);
  for (const note of facts.notes) {
    const line = document.createElement("p");
    line.textContent = note;
    section.append(line);
  }
}

function listKeys() {
  const list = /** @type {HTMLElement} */ (element("help", HTMLDialogElement).querySelector("dl"));
  for (const [keys, meaning] of isVideo ? [...KEYS, ...VIDEO_KEYS] : KEYS) {
    const [term, description] = ["dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = keys;
    description.textContent = meaning;
    list.append(term, description);
  }
}

document.documentElement.classList.toggle("framed", isFramed);
makeChoices();
tabulate();
listKeys();
connect();
if (isVideo) connectPlayer();
choose(left, left.index);
choose(right, right.index);
setMode("slider");
if (isFramed) requestAnimationFrame(() => window.parent.postMessage("drawn", "*"));

// The page of `srgan-edge serve`: files go in, jobs are shown as they change, results beside their
// sources. No framework and nothing from elsewhere; names of files are text, never markup.
// @ts-check
"use strict";

/**
 * @typedef {"queued" | "running" | "done" | "failed" | "cancelled"} State
 * @typedef {{id: string, state: State, kind: "image" | "video", name: string, model: string,
 *            bytes: number, frames: number, frames_expected: number | null,
 *            position: number | null, seconds: number, error: string | null,
 *            size: string | null, result_bytes: number | null, notes: string[],
 *            created: number, change: number}} Job as `JobInfo` in serve/job.py has it
 * @typedef {{name: string, scale: number | null, licence: string | null}} Model
 * @typedef {{model: string, models: Model[], max_bytes: number, accepts_paths: boolean,
 *            is_session: boolean, version: string}} About
 */

/** @template {HTMLElement} T @param {string} id @param {new () => T} kind @returns {T} */
function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`no ${id}`);
  return found;
}

/** @template {HTMLElement} T @param {Element} root @param {string} selector @param {new () => T} kind
 *  @returns {T} */
function within(root, selector, kind) {
  const found = root.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`no ${selector}`);
  return found;
}

/** @param {number} bytes */
function inBytes(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (bytes >= 1000 && power < units.length - 1) {
    bytes /= 1000;
    power += 1;
  }
  return `${power && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[power]}`;
}

/** @param {number} seconds */
function inTime(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// ---- Messages ----------------------------------------------------------------------------------

/** @param {string} name of the file that it is about, and shown before it
 *  @param {string} text */
function complain(name, text) {
  const [line, words, close] = ["p", "span", "button"].map((tag) => document.createElement(tag));
  words.textContent = name ? `${name}: ${withoutName(text, name)}` : text;
  close.textContent = "✕";
  close.className = "quiet";
  close.setAttribute("aria-label", "Dismiss");
  close.addEventListener("click", () => line.remove());
  line.append(words, close);
  element("messages", HTMLElement).append(line);
}

/** @param {string} text @param {string} name @returns {string} a message of the service, which
 *  begins with the name of the file, for a place that shows the name already */
function withoutName(text, name) {
  return text.startsWith(`${name}: `) ? text.slice(name.length + 2) : text;
}

/** @param {any} problem @param {number} status @returns {string} a refusal in one line */
function refusal(problem, status) {
  if (!problem || !problem.detail) return `the service answered with status ${status}`;
  return problem.possible ? `${problem.detail}; possible: ${problem.possible}` : problem.detail;
}

/** @param {string} path @param {RequestInit} [options] @returns {Promise<Response>} */
async function ask(path, options) {
  const response = await fetch(path, options);
  if (response.status === 401) showSignIn();
  if (!response.ok) throw new Error(refusal(await response.json().catch(() => null), response.status));
  return response;
}

// ---- Jobs --------------------------------------------------------------------------------------

/** One line of the list; an upload has one before it has a job. */
class Line {
  /** @param {string} name */
  constructor(name) {
    const template = element("job", HTMLTemplateElement);
    const copy = /** @type {DocumentFragment} */ (template.content.cloneNode(true));
    this.root = /** @type {HTMLLIElement} */ (copy.firstElementChild);
    this.bar = within(this.root, "progress", HTMLProgressElement);
    this.button = within(this.root, ".cancel", HTMLButtonElement);
    /** @type {Job | null} */
    this.job = null;
    /** @type {{time: number, frames: number}[]} */
    this.times = [];
    this.put(".name", name);
    this.bar.setAttribute("aria-label", `Progress of ${name}`);
    within(this.root, ".name", HTMLElement).title = name;
    element("jobs", HTMLUListElement).prepend(this.root);
  }

  /** @param {string} selector @param {string} text */
  put(selector, text) {
    const place = within(this.root, selector, HTMLElement);
    if (place.textContent !== text) place.textContent = text;
  }

  /** @param {string} state @param {string} text */
  putState(state, text) {
    this.root.dataset.state = state;
    this.put(".state .text", text);
  }

  /** @param {number | null} share from 0 to 1; null: not known */
  putBar(share) {
    this.bar.hidden = false;
    if (share === null) this.bar.removeAttribute("value");
    else this.bar.value = share;
  }

  /** @param {Job} job */
  show(job) {
    if (this.job && this.job.change > job.change) return;
    this.job = job;
    this.root.dataset.id = job.id;
    const size = job.size ? `${job.size}, ` : "";
    const bytes = job.result_bytes === null ? inBytes(job.bytes) : `${inBytes(job.bytes)} to ${inBytes(job.result_bytes)}`;
    this.put(".facts", `${job.kind}, ${job.model}, ${size}${bytes}`);
    this.put(".detail", (job.error ? [job.error] : job.notes).map((text) => withoutName(text, job.name)).join("; "));
    this.showState(job);
    const hasResult = job.result_bytes !== null;
    const compare = within(this.root, ".compare", HTMLButtonElement);
    compare.hidden = !hasResult || job.state !== "done";
    compare.setAttribute("aria-label", `Compare ${job.name} with its source`);
    const download = within(this.root, ".download", HTMLAnchorElement);
    download.hidden = !hasResult;
    download.href = `/v1/jobs/${job.id}/result`;
    download.download = "";
    download.setAttribute("aria-label", `Download the result of ${job.name}`);
    const hasEnded = !["queued", "running"].includes(job.state);
    this.button.textContent = hasEnded ? "Delete" : "Cancel";
    this.button.setAttribute("aria-label", `${this.button.textContent} ${job.name}`);
  }

  /** @param {Job} job */
  showState(job) {
    if (job.state === "queued") {
      this.putState("queued", job.position ? `queued, ${job.position} before it` : "queued");
      this.putBar(job.frames && job.frames_expected ? job.frames / job.frames_expected : 0);
    } else if (job.state === "running") {
      const expected = job.frames_expected;
      const share = expected ? Math.min(1, job.frames / expected) : null;
      const percent = share === null ? "" : `, ${Math.floor(100 * share)} %`;
      this.putState("running", `upscaling${percent}${this.remaining(job)}`);
      this.putBar(share);
    } else {
      this.bar.hidden = true;
      const time = job.state === "done" ? ` in ${inTime(job.seconds)}` : "";
      this.putState(job.state, `${job.state}${time}`);
    }
  }

  /** @param {Job} job @returns {string} the time left, by the speed of the last events */
  remaining(job) {
    this.times = [...this.times, { time: Date.now() / 1000, frames: job.frames }].slice(-12);
    const [first, last] = [this.times[0], this.times[this.times.length - 1]];
    const speed = (last.frames - first.frames) / Math.max(0.001, last.time - first.time);
    if (!job.frames_expected || speed <= 0 || last.time - first.time < 2) return "";
    return `, ${inTime((job.frames_expected - job.frames) / speed)} left`;
  }
}

/** @type {Map<string, Line>} */
const lines = new Map();

/** @param {Job} job */
function showJob(job) {
  let line = lines.get(job.id);
  if (!line) {
    line = new Line(job.name);
    lines.set(job.id, line);
    attach(line);
  }
  line.show(job);
  summarize();
}

/** @param {Line} line */
function attach(line) {
  line.button.addEventListener("click", () => remove(line));
  within(line.root, ".compare", HTMLButtonElement).addEventListener("click", () => line.job && compare(line.job));
}

/** @param {Line} line */
async function remove(line) {
  if (!line.job || line.button.ariaBusy) return;
  line.button.ariaBusy = "true"; // not disabled, which would take the focus away
  try {
    const response = await ask(`/v1/jobs/${line.job.id}`, { method: "DELETE" });
    if (response.status === 204) forget(line.job.id);
    else showJob(await response.json());
  } catch (error) {
    complain(line.job.name, /** @type {Error} */ (error).message);
  }
  line.button.ariaBusy = null;
}

/** @param {string} id */
function forget(id) {
  const line = lines.get(id);
  if (!line) return;
  const next = line.root.nextElementSibling ?? line.root.previousElementSibling;
  const hadFocus = line.root.contains(document.activeElement);
  line.root.remove();
  lines.delete(id);
  if (hadFocus) (next ? within(next, ".cancel", HTMLButtonElement) : element("files", HTMLInputElement)).focus();
  summarize();
}

function summarize() {
  /** @type {Record<string, number>} */
  const counts = {};
  for (const { job } of lines.values()) if (job) counts[job.state] = (counts[job.state] ?? 0) + 1;
  const text = Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ");
  const place = element("summary", HTMLElement);
  if (place.textContent !== text) place.textContent = text;
}

// ---- Events ------------------------------------------------------------------------------------

/** @type {EventSource | null} */
let events = null;

function follow() {
  events?.close();
  const source = new EventSource("/v1/events");
  events = source;
  /** @type {Set<string> | null} */
  let seen = new Set();
  source.addEventListener("open", () => tell(""));
  source.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    seen?.add(job.id);
    showJob(job);
  });
  source.addEventListener("gone", (event) => forget(JSON.parse(event.data).id));
  source.addEventListener("ready", () => {
    for (const id of [...lines.keys()]) if (seen && seen.size < 200 && !seen.has(id)) forget(id);
    seen = null;
  });
  source.addEventListener("error", () => {
    tell("not connected, trying again");
    if (source.readyState === EventSource.CLOSED) setTimeout(start, 3000);
  });
}

/** @param {string} text about the connection */
function tell(text) {
  element("connection", HTMLElement).textContent = text;
}

// ---- Uploads -----------------------------------------------------------------------------------

/** @returns {Record<string, string>} */
function chosen() {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const id of ["model", "outscale", "format"]) {
    const value = element(id, HTMLSelectElement).value;
    if (value) fields[id] = value;
  }
  return fields;
}

/** @param {File} file */
function upload(file) {
  const line = new Line(file.name);
  const form = new FormData();
  for (const [name, value] of Object.entries(chosen())) form.append(name, value);
  form.append("file", file);
  line.put(".facts", inBytes(file.size));
  line.putState("uploading", "uploading");
  line.putBar(0);
  line.button.textContent = "Cancel";
  line.button.setAttribute("aria-label", `Cancel the upload of ${file.name}`);
  const request = new XMLHttpRequest(); // fetch cannot report how far an upload is
  request.open("POST", "/v1/jobs");
  request.responseType = "json";
  const cancel = () => request.abort();
  line.button.addEventListener("click", cancel);
  request.upload.addEventListener("progress", (event) => {
    line.putBar(event.total ? event.loaded / event.total : null);
    line.putState("uploading", `uploading, ${Math.floor((100 * event.loaded) / (event.total || 1))} %`);
  });
  return new Promise((resolve) => {
    request.addEventListener("loadend", () => {
      line.button.removeEventListener("click", cancel);
      if (request.status === 202) {
        line.root.remove(); // its job may have a line already, by its events
        showJob(request.response);
      } else {
        line.root.remove();
        if (request.status === 401) showSignIn();
        if (request.status) complain(file.name, refusal(request.response, request.status));
      }
      resolve(null);
    });
    request.addEventListener("error", () => complain(file.name, "the upload broke off; drop it again"));
    request.send(form);
  });
}

/** @param {Iterable<File>} files uploaded one after another */
async function uploadAll(files) {
  for (const file of files) await upload(file);
}

async function takePath() {
  const input = element("path", HTMLInputElement);
  if (!input.value.trim()) return;
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...chosen(), path: input.value.trim() })) form.append(name, value);
  try {
    showJob(await (await ask("/v1/jobs", { method: "POST", body: form })).json());
    input.value = "";
  } catch (error) {
    complain(input.value, /** @type {Error} */ (error).message);
  }
}

function acceptDrops() {
  let depth = 0; // enter and leave come for every element below
  const isFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  const mark = (/** @type {number} */ by) => {
    depth = Math.max(0, depth + by);
    document.body.classList.toggle("dragging", depth > 0);
  };
  document.addEventListener("dragenter", (event) => isFiles(event) && mark(1));
  document.addEventListener("dragleave", (event) => isFiles(event) && mark(-1));
  document.addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    mark(-depth);
    if (!element("upload", HTMLFormElement).hidden) uploadAll([...(event.dataTransfer?.files ?? [])]);
  });
}

// ---- Comparing ---------------------------------------------------------------------------------

/** @param {Job} job */
function compare(job) {
  const download = element("viewer-download", HTMLAnchorElement);
  download.href = `/v1/jobs/${job.id}/result`;
  download.download = "";
  const frame = element("compared", HTMLIFrameElement);
  const wait = element("viewer-wait", HTMLElement);
  wait.hidden = false;
  wait.textContent = job.kind === "video" ? "Putting the first seconds side by side" : "Putting both side by side";
  element("viewer-title", HTMLElement).textContent = job.name;
  const dialog = element("viewer", HTMLDialogElement);
  dialog.showModal();
  const address = `/v1/jobs/${job.id}/compare`;
  fetch(address, { method: "HEAD" }) // first, so that a refusal is told here, and not in the frame
    .then((response) => (response.ok ? response : ask(address)))
    .then(() => {
      frame.onload = () => (wait.hidden = true); // late for videos; pages of old versions say nothing
      frame.src = address;
    })
    .catch((error) => (wait.textContent = error.message));
}

/** @param {MessageEvent} event that the page in the frame is drawn */
function hideWait(event) {
  if (event.source !== element("compared", HTMLIFrameElement).contentWindow) return;
  element("viewer-wait", HTMLElement).hidden = true;
}

function closeViewer() {
  const frame = element("compared", HTMLIFrameElement);
  frame.onload = null;
  frame.removeAttribute("src");
}

// ---- Start -------------------------------------------------------------------------------------

function showSignIn() {
  events?.close();
  tell("");
  element("sign-in", HTMLFormElement).hidden = false;
  for (const id of ["upload", "queue", "sign-out"]) element(id, HTMLElement).hidden = true;
  element("token", HTMLInputElement).focus();
}

async function signIn() {
  const token = element("token", HTMLInputElement);
  const error = element("sign-in-error", HTMLElement);
  error.textContent = "";
  const headers = { authorization: `Bearer ${token.value.trim()}` };
  try {
    await ask("/v1/session", { method: "POST", headers });
    token.value = "";
    await start();
  } catch (failure) {
    error.textContent = /** @type {Error} */ (failure).message;
  }
}

async function signOut() {
  events?.close(); // first: the service ends it with the session, which is no lost connection
  const response = await fetch("/v1/session", { method: "DELETE" }).catch(() => null);
  if (response?.ok || response?.status === 401) {
    location.reload(); // nothing stays: no job, and no upload that is under way
  } else {
    complain("", "still signed in, for the service does not answer; try again");
    start();
  }
}

/** @param {About} about */
function showAbout(about) {
  const select = element("model", HTMLSelectElement);
  if (!select.options.length) {
    for (const { name, scale } of about.models) {
      const text = name === "auto" ? "auto: by source and device" : scale ? `${name}, ${scale} x` : name;
      select.add(new Option(text, name, false, name === about.model));
    }
  }
  element("limit", HTMLElement).textContent = `up to ${inBytes(about.max_bytes)} each`;
  within(document.body, ".path", HTMLElement).hidden = !about.accepts_paths;
  element("sign-in", HTMLFormElement).hidden = true;
  element("sign-out", HTMLButtonElement).hidden = !about.is_session;
  for (const id of ["upload", "queue"]) element(id, HTMLElement).hidden = false;
}

async function start() {
  try {
    const response = await fetch("/v1/about");
    if (response.status === 401) return showSignIn();
    if (!response.ok) throw new Error(refusal(await response.json().catch(() => null), response.status));
    showAbout(await response.json());
    follow();
  } catch {
    tell("not connected, trying again");
    setTimeout(start, 3000);
  }
}

function connect() {
  const files = element("files", HTMLInputElement);
  files.addEventListener("change", () => {
    uploadAll([...(files.files ?? [])]);
    files.value = "";
  });
  element("upload", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    takePath();
  });
  element("take", HTMLButtonElement).addEventListener("click", takePath);
  element("sign-in", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    signIn();
  });
  element("sign-out", HTMLButtonElement).addEventListener("click", signOut);
  element("close", HTMLButtonElement).addEventListener("click", () => element("viewer", HTMLDialogElement).close());
  element("viewer", HTMLDialogElement).addEventListener("close", closeViewer);
  window.addEventListener("message", hideWait);
  element("theme", HTMLButtonElement).addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  });
  acceptDrops();
}

connect();
start();

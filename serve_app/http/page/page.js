// The page at `/`. Everything that comes from a file, a result or an error becomes text, never HTML.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const COLORS = ["#1f4fbf", "#a4243b", "#0b6e4f", "#7b2cbf", "#8a5a00", "#006d8f", "#9c2f7d", "#4d5b1e"];
const AT_A_TIME = 3;
const JOBS_AT_A_TIME = 16;
const POLL_MS = 1000;

/** The images of this visit: {file, name, url, state, result, error, explained}. */
const images = [];
let shown = null;
let pipeline = null;
let language = "curl";
const measure = document.createElement("canvas").getContext("2d");
let hasJobs = false;

// ---- small helpers

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "class" || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const percent = (share) => `${Math.round(share * 100)}%`;
const key = () => sessionStorage.getItem("visiongraph-key") ?? "";

async function call(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (key()) headers["X-API-Key"] = key();
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server does not answer. Is this device online?");
  }
  if (response.status === 401) $("key").hidden = false;
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.detail ?? `The server answered ${response.status}.`);
    error.mistakes = problem.mistakes;
    error.status = response.status;
    throw error;
  }
  return response.json();
}

const postJson = (path, body) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

function fail(error) {
  $("error").textContent = error.message;
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---- images in

function add(files) {
  const chosen = [...files].filter((file) => file.type.startsWith("image/") || /\.(jpe?g|png|webp|gif|bmp|tiff?)$/i.test(file.name));
  if (!chosen.length) {
    fail(new Error("That is not an image."));
    return;
  }
  $("error").textContent = "";
  for (const file of chosen) {
    images.push({ file, many: chosen.length > 1, name: file.name || "pasted image", url: URL.createObjectURL(file), state: "waiting" });
  }
  const first = images[images.length - chosen.length];
  if (chosen.length === 1) show(first);
  work();
}

let running = 0;

async function work() {
  listImages();
  const next = images.find((image) => image.state === "waiting");
  if (!next || running >= (next.many && hasJobs ? JOBS_AT_A_TIME : AT_A_TIME)) return;
  running += 1;
  next.state = "running";
  work();
  try {
    next.result = next.many && hasJobs ? await runJob(next.file) : await postImage("v1/images", next.file);
    next.state = "done";
  } catch (error) {
    next.state = "failed";
    next.error = error.message;
  }
  running -= 1;
  if (next === shown || !shown) show(next);
  work();
}

const postImage = (path, file) =>
  call(path, { method: "POST", headers: { "Content-Type": file.type || "application/octet-stream" }, body: file });

/** The result by way of the queue; without it where this key may send no jobs. */
async function runJob(file) {
  let accepted;
  try {
    accepted = await postImage("v1/jobs", file);
  } catch (error) {
    if (error.status !== 403) throw error;
    hasJobs = false;
    return postImage("v1/images", file);
  }
  for (;;) {
    const job = await call(accepted.jobs[0].status_url);
    if (job.status === "succeeded") return job.result;
    if (job.status === "failed") throw new Error(job.error?.detail ?? "The job failed.");
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function label(image) {
  if (image.state === "failed") return image.error;
  if (image.state !== "done") return image.state;
  const counts = new Map();
  for (const { class_name } of objectsOf(image.result)) counts.set(class_name, (counts.get(class_name) ?? 0) + 1);
  return [...counts].map(([name, count]) => `${count} ${name}`).join(", ") || "no objects";
}

function fits(image, wanted) {
  if (!wanted) return true;
  const [kind, value] = [wanted.slice(0, wanted.indexOf(":")), wanted.slice(wanted.indexOf(":") + 1)];
  if (kind === "state") return image.state === value;
  if (!image.result) return false;
  return objectsOf(image.result).some((object) => (kind === "class" ? object.class_name === value : object.labels.some((each) => each.label === value)));
}

function listImages() {
  const ended = images.filter((image) => image.state === "done" || image.state === "failed").length;
  $("gallery").hidden = images.length < 2;
  $("progress").max = Math.max(1, images.length);
  $("progress").value = ended;
  $("status").textContent = ended < images.length ? `${ended} of ${images.length} images done` : "";
  const options = new Map([["", "all"], ["state:done", "with a result"], ["state:failed", "failed"]]);
  for (const image of images.filter((each) => each.result)) {
    for (const object of objectsOf(image.result)) {
      options.set(`class:${object.class_name}`, object.class_name);
      for (const each of object.labels) options.set(`label:${each.label}`, each.label);
    }
  }
  const wanted = $("filter").value;
  $("filter").replaceChildren(...[...options].map(([value, text]) => element("option", { value, textContent: text })));
  $("filter").value = options.has(wanted) ? wanted : "";
  $("thumbs").replaceChildren(
    ...images.filter((image) => fits(image, $("filter").value)).map((image) =>
      element("li", {},
        element("button", { type: "button", "aria-pressed": String(image === shown), onclick: () => show(image) },
          element("img", { src: image.url, alt: image.name }), element("small", { textContent: label(image), title: label(image) })))),
  );
}

// ---- one result

/** The objects of a result: each detection with the labels that other steps gave it. */
function objectsOf(result) {
  const detectors = Object.entries(result.context).filter(([, value]) => Array.isArray(value.detections));
  return detectors.flatMap(([step, value]) =>
    value.detections.map((detection, index) => ({
      ...detection,
      index,
      step,
      labels: detectors.length > 1 ? [] : Object.entries(result.context).flatMap(([name, other]) =>
        (other.objects ?? []).filter((object) => object.detection === index && object.label)
          .map((object) => ({ step: name, label: object.label, confidence: object.confidence, reason: object.reason }))),
    })));
}

const words = (object) =>
  [`${object.class_name} ${percent(object.confidence)}`, ...object.labels.filter((each) => each.label !== "unknown")
    .map((each) => `${each.label}${each.confidence === undefined ? "" : ` ${percent(each.confidence)}`}`)].join(", ");

function show(image) {
  shown = image;
  $("result").hidden = false;
  $("photo").src = image.url;
  $("photo").alt = image.name;
  $("caption").textContent = image.name;
  $("error").textContent = image.state === "failed" ? `${image.name}: ${image.error}` : "";
  for (const id of ["boxes", "objects", "graph", "why"]) $(id).replaceChildren();
  $("whole").textContent = "";
  $("json").textContent = image.result ? JSON.stringify(image.result, null, 2) : "";
  if (image.result) {
    drawBoxes();
    drawSteps();
    drawRules();
  }
  showCode();
  listImages();
}

function visible() {
  const least = Number($("confidence").value) / 100;
  return objectsOf(shown.result).filter((object) => object.confidence >= least);
}

function colorOf(name) {
  let sum = 0;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 9973;
  return COLORS[sum % COLORS.length];
}

function drawBoxes() {
  const { width, height } = shown.result.image;
  const svg = $("boxes");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  // of the text, in pixels of the image: at least 12 px on the screen
  const size = Math.max(Math.max(width, height) / 48, (12 * width) / ($("photo").clientWidth || width));
  measure.font = `${size}px system-ui, sans-serif`;
  const taken = [];
  const objects = visible();
  svg.replaceChildren(...objects.map((object) => {
    const [left, top, right, bottom] = object.bbox;
    const text = drawn("text", { "font-size": size, x: 0, y: 0 }, document.createTextNode(words(object)));
    const place = labelPlace(object.bbox, measure.measureText(words(object)).width + size * 0.6, size * 1.4, width, height, taken);
    text.setAttribute("x", place.x + size * 0.3);
    text.setAttribute("y", place.y + size * 0.7);
    const color = colorOf(object.class_name);
    return drawn("g", { "data-object": `${object.step}/${object.index}` },
      drawn("rect", { class: "box", x: left, y: top, width: right - left, height: bottom - top, stroke: color }),
      drawn("rect", { class: "label", x: place.x, y: place.y, width: place.width, height: place.height, fill: color, rx: size * 0.2 }), text);
  }));
  $("objects").replaceChildren(...objects.map((object) => {
    const name = `${object.step}/${object.index}`;
    const swatch = element("i");
    swatch.style.background = colorOf(object.class_name);
    const button = element("button", { type: "button" }, swatch, element("span", { textContent: words(object) }));
    button.dataset.object = name;
    for (const [event, on] of [["mouseenter", true], ["focus", true], ["mouseleave", false], ["blur", false]]) button.addEventListener(event, () => highlight(name, on));
    return element("li", {}, button);
  }));
  for (const group of svg.children) {
    group.addEventListener("mouseenter", () => highlight(group.dataset.object, true));
    group.addEventListener("mouseleave", () => highlight(group.dataset.object, false));
  }
  const whole = Object.entries(shown.result.context).filter(([, value]) => value.label)
    .map(([step, value]) => `${step}: ${value.label}${value.confidence === undefined ? "" : ` ${percent(value.confidence)}`}`);
  $("whole").textContent = [objects.length ? "" : "No objects.", ...whole].filter(Boolean).join(" ");
}

/** A place for a label near its box that covers no other label: above it, inside it, below it, or further down. */
function labelPlace([left, top, , bottom], width, height, imageWidth, imageHeight, taken) {
  const x = Math.max(0, Math.min(left, imageWidth - width));
  const rows = [top - height, top, bottom - height, bottom];
  for (let step = 1; step < 40; step += 1) rows.push(top + step * height, top - (step + 1) * height);
  const free = (y) => y >= 0 && y + height <= imageHeight &&
    taken.every((other) => x >= other.x + other.width || other.x >= x + width || y >= other.y + other.height || other.y >= y + height);
  const place = { x, y: rows.find(free) ?? Math.max(0, top - height), width, height };
  taken.push(place);
  return place;
}

function highlight(name, on) {
  for (const each of document.querySelectorAll("[data-object]")) {
    if (each.dataset.object === name) each.classList.toggle("hot", on);
  }
}

// ---- why

function drawSteps() {
  const steps = shown.result.steps;
  const ends = endTimes(steps);
  const total = Math.max(1e-9, ...Object.values(ends));
  $("graph").replaceChildren(...steps.map((step) => {
    const after = (pipeline?.steps.find((each) => each.name === step.name)?.depends_on ?? []).join(", ");
    const took = step.duration_ms === undefined || step.duration_ms === null ? "" : `${step.duration_ms} ms`;
    const bar = element("span", { class: "bar", role: "presentation" });
    const part = (kind, ms) => {
      const span = element("span", { class: kind, title: `${kind} ${ms} ms` });
      span.style.width = `${(ms / total) * 100}%`;
      bar.append(span);
    };
    if (took) {
      part("before", ends[step.name] - step.duration_ms);
      const timings = step.timings ?? {};
      const parts = ["queue", "decode", "model"].filter((kind) => timings[`${kind}_ms`] !== undefined && timings[`${kind}_ms`] !== null);
      if (parts.length) parts.forEach((kind) => part(kind, timings[`${kind}_ms`]));
      else part("all", step.duration_ms);
    }
    return element("button", { type: "button", class: "step", onclick: () => explainStep(step.name) },
      element("span", {}, element("b", { textContent: step.name }), " ", element("span", { class: step.status, textContent: step.status.replace("_", " ") }),
        element("small", { textContent: [after && `after ${after}`, took].filter(Boolean).join(" · ") })), bar);
  }));
}

/** When each step ended, in ms since the first began: a step begins when its inputs are there. */
function endTimes(steps) {
  const ends = {};
  const end = (name) => {
    if (name in ends) return ends[name];
    const step = steps.find((each) => each.name === name);
    const inputs = pipeline?.steps.find((each) => each.name === name)?.depends_on ?? [];
    ends[name] = Math.max(0, ...inputs.map(end)) + (step?.duration_ms ?? 0);
    return ends[name];
  };
  steps.forEach((step) => end(step.name));
  return ends;
}

async function explainStep(name) {
  const image = shown;
  try {
    image.explained ??= (await postJson("v1/explain", { result: image.result })).steps;
  } catch (error) {
    fail(error);
    return;
  }
  if (image !== shown) return;
  const step = image.explained.find((each) => each.name === name);
  const decisions = [...(step.condition ? [["condition", step.condition]] : []), ...step.crops.map((crop) => ["crops", crop])];
  $("why").replaceChildren(
    element("p", {}, element("b", { textContent: name }), ` ${step.status.replace("_", " ")}${step.why ? `: ${step.why}` : ""}`),
    ...(decisions.length ? [] : [element("p", { class: "hint", textContent: step.status === "skipped" ? "Its rules were not evaluated." : "It has no rules: it runs on every image." })]),
    ...decisions.map(([kind, each]) => {
      const [style, verdict] = each.held === null ? ["undecided", "cannot be evaluated"] : each.held ? ["held", "holds"] : ["not", "does not hold"];
      return element("div", {},
        element("span", { class: style, textContent: `${kind} for ${each.subject} ${verdict}: ` }), element("code", { textContent: each.rule }),
        element("ul", {}, ...each.values.map(([source, value]) => element("li", {}, element("code", { textContent: `${source} = ${shorten(JSON.stringify(value))}` })))),
        each.error ? element("p", { class: "undecided", textContent: each.error }) : "");
    }));
}

const shorten = (text) => (text.length > 300 ? `${text.slice(0, 300)} …` : text);

// ---- what if

function drawRules() {
  if ($("rules").childElementCount || !pipeline) return;
  for (const step of pipeline.steps) {
    for (const kind of ["condition", "crops"]) {
      if (step[kind] === null) continue;
      const area = element("textarea", { rows: 2, value: step[kind], spellcheck: false });
      area.dataset.step = step.name;
      area.dataset.kind = kind;
      area.dataset.before = step[kind];
      area.addEventListener("input", later);
      $("rules").append(element("label", {}, `${step.name}, ${kind}`, area));
    }
  }
}

let timer;
let asked = 0;

function later() {
  clearTimeout(timer);
  timer = setTimeout(tryRules, 300);
}

async function tryRules() {
  const areas = [...$("rules").querySelectorAll("textarea")];
  const rules = {};
  for (const area of areas.filter((each) => each.value !== each.dataset.before)) {
    (rules[area.dataset.step] ??= {})[area.dataset.kind] = area.value;
  }
  asked += 1;
  const mine = asked;
  let answer = null;
  let problem = null;
  try {
    answer = await postJson("v1/what-if", { results: images.filter((image) => image.result).slice(-100).map((image) => image.result), rules });
  } catch (error) {
    problem = error;
  }
  if (mine !== asked) return; // the rules have changed since
  const wrong = problem?.mistakes ?? [];
  for (const area of areas) area.setAttribute("aria-invalid", String(wrong.some((each) => each.step === area.dataset.step && each.key === area.dataset.kind)));
  $("rule-errors").textContent = wrong.length ? wrong.map((each) => `${each.step}, ${each.key}: ${each.message}`).join("\n") : problem?.message ?? "";
  $("changes").hidden = answer === null;
  $("changes").querySelector("tbody").replaceChildren(...(answer?.steps ?? []).map((step) =>
    element("tr", {}, ...[step.name, step.before.runs, step.after.runs, step.before.crops, step.after.crops].map((cell) => element("td", { textContent: cell })))));
}

// ---- code, downloads

const QUOTED = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function codeOf(name) {
  const url = new URL("v1/images", document.baseURI).href;
  const file = shown.name;
  const type = shown.file.type || "application/octet-stream";
  if (name === "curl") {
    return `curl -H 'Content-Type: ${type}'${key() ? " -H \"X-API-Key: $KEY\"" : ""} --data-binary @${QUOTED(file)} ${url}`;
  }
  if (name === "Python") {
    return `import httpx\n\nwith open(${JSON.stringify(file)}, "rb") as image:\n    response = httpx.post(\n        ${JSON.stringify(url)},\n        content=image.read(),\n        headers={"Content-Type": ${JSON.stringify(type)}${key() ? ', "X-API-Key": KEY' : ""}},\n        timeout=60,\n    )\nprint(response.json())`;
  }
  return `const response = await fetch(${JSON.stringify(url)}, {\n  method: "POST",\n  headers: { "Content-Type": ${JSON.stringify(type)}${key() ? ', "X-API-Key": KEY' : ""} },\n  body: file, // a File or a Blob\n});\nconsole.log(await response.json());`;
}

function showCode() {
  if (!shown) return;
  $("code").textContent = codeOf(language);
  $("languages").replaceChildren(...["curl", "Python", "JavaScript"].map((name) =>
    element("button", { type: "button", textContent: name, "aria-pressed": String(name === language), onclick: () => { language = name; showCode(); } })));
}

async function picture() {
  const { width, height } = shown.result.image;
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.drawImage($("photo"), 0, 0, width, height);
  const drawing = $("boxes").cloneNode(true);
  drawing.setAttribute("width", width);
  drawing.setAttribute("height", height);
  // outside of the page its style does not apply
  const line = Math.max(2, Math.max(width, height) / 400);
  for (const rect of drawing.querySelectorAll("rect.box")) { rect.setAttribute("fill", "none"); rect.setAttribute("stroke-width", line); }
  for (const text of drawing.querySelectorAll("text")) { text.setAttribute("fill", "#fff"); text.setAttribute("font-family", "sans-serif"); text.setAttribute("dominant-baseline", "central"); }
  const overlay = new Image();
  overlay.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(drawing))}`;
  await overlay.decode();
  context.drawImage(overlay, 0, 0, width, height);
  canvas.toBlob((blob) => save(blob, `${shown.name.replace(/\.\w+$/, "")}-annotated.png`));
}

// ---- the page

$("files").addEventListener("change", (event) => add(event.target.files));
$("camera").addEventListener("change", (event) => add(event.target.files));
$("confidence").addEventListener("input", () => {
  $("confidence-value").textContent = `${$("confidence").value}%`;
  if (shown?.result) drawBoxes();
});
$("filter").addEventListener("change", listImages);
$("download-all").addEventListener("click", () => {
  const lines = images.filter((image) => image.result || image.error)
    .map((image) => JSON.stringify(image.result ? { name: image.name, ...image.result } : { name: image.name, error: image.error }));
  save(new Blob([`${lines.join("\n")}\n`], { type: "application/jsonl" }), "results.jsonl");
});
$("download-json").addEventListener("click", () => save(new Blob([$("json").textContent], { type: "application/json" }), "result.json"));
$("download-picture").addEventListener("click", () => picture().catch(fail));
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("code").textContent).catch(() => {});
  $("copy").textContent = "Copied";
});
$("what-if").addEventListener("toggle", () => { if ($("what-if").open) tryRules(); });
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("visiongraph-key", $("key-value").value);
  $("key").hidden = true;
  $("error").textContent = "";
  for (const image of images.filter((each) => each.state === "failed")) image.state = "waiting";
  start();
  work();
});
document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) add(event.clipboardData.files); });
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) add(event.dataTransfer.files);
  });
}

async function start() {
  try {
    pipeline = await call("v1/pipeline");
    $("pipeline").textContent = pipeline.name;
  } catch (error) {
    fail(error);
  }
  const offer = await call("page/offer").catch(() => ({ examples: [], jobs: false }));
  hasJobs = offer.jobs;
  $("examples").replaceChildren(...offer.examples.map((name) => {
    const url = `page/examples/${encodeURIComponent(name)}`;
    return element("button", {
      type: "button",
      onclick: async () => {
        const blob = await (await fetch(url)).blob();
        add([new File([blob], name, { type: blob.type })]);
      },
    }, element("img", { src: url, alt: `Example: ${name}` }));
  }));
}

start();

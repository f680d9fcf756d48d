"use strict";
// The page of review_page.py. Names of files and classes are data: they become the text of
// elements, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const images = data.images.map((image) => ({
  ...image,
  boxes: image.boxes.map(([number, category, score, x, y, width, height, verdict]) => ({
    number, category, score, x, y, width, height, verdict, place: image.place,
  })),
}));
const boxes = images.flatMap((image) => image.boxes);
// Also the boxes of images that are not shown, which count at the thresholds.
const byClass = data.classes.map(() => []);
for (const box of boxes) byClass[box.category].push(box);
for (const [category, score, verdict] of data.others) {
  byClass[category].push({ category, score, verdict });
}

// What a person decides. A decision is the class of a box, or null for a rejected one.
let decisions = new Map();
let complete = new Set(); // places of images
let thresholds = data.classes.map(() => data.lowest);
// Where the person is.
let order = []; // of {image, box} that pass the filter; box is null for an image without any
let listed = []; // the images of order
let at = 0;
let zoomed = false;
let masksShown = true;
let thumbsShown = 60;
const steps = []; // functions that undo a step and tell where it was

const STORE = `multas-review-${data.sha256}`;
const WORDS = {
  open: "undecided", accept: "accepted", reject: "rejected", relabel: "relabelled", below: "below",
};

function stateOf(box) {
  if (decisions.has(box.number)) {
    const category = decisions.get(box.number);
    return category === null ? "reject" : category === box.category ? "accept" : "relabel";
  }
  if (box.score < thresholds[box.category]) return "below";
  return complete.has(box.place) ? "accept" : "open";
}

// The class of a box as decided; a rejected one keeps the teacher's.
const classOf = (box) => decisions.get(box.number) ?? box.category;
const doubt = (box) => Math.abs(box.score - thresholds[box.category]);

// --- elements

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function drawing(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function draw(svg, image, current) {
  const view = current && zoomed ? around(current, image) : [0, 0, image.width, image.height];
  svg.setAttribute("viewBox", view.join(" "));
  const { width, height } = image;
  const picture = drawing("image", { href: image.src, width, height, preserveAspectRatio: "none" });
  svg.replaceChildren(picture);
  if (image.mask && masksShown) {
    const href = image.mask;
    const mask = drawing("image", { href, width, height, preserveAspectRatio: "none" });
    mask.setAttribute("class", "mask");
    svg.append(mask);
  }
  // Large boxes first, so that none covers a smaller one.
  const sorted = [...image.boxes].sort((a, b) => b.width * b.height - a.width * a.height);
  for (const box of sorted) {
    const { x, y } = box;
    const rect = drawing("rect", { x, y, width: box.width, height: box.height });
    rect.setAttribute("class", stateOf(box) + (box === current ? " current" : ""));
    rect.dataset.number = box.number;
    svg.append(rect);
  }
  return picture;
}

// The part of an image that a zoom shows, [x, y, width, height].
function around(box, image) {
  const wanted = Math.max(3 * box.width, 3 * box.height, 24);
  const side = Math.min(wanted, Math.max(image.width, image.height));
  const start = (middle, length) => Math.max(0, Math.min(middle - side / 2, length - side));
  const left = start(box.x + box.width / 2, image.width);
  return [left, start(box.y + box.height / 2, image.height), side, side];
}

// --- what is shown

function passes(box) {
  const wanted = $("class").value;
  const state = $("state").value;
  return (
    (wanted === "" || classOf(box) === Number(wanted)) &&
    box.score >= Number($("low").value) && box.score <= Number($("high").value) &&
    (state === "" || stateOf(box) === state)
  );
}

// Lists what passes the filter, most doubtful first; the current box stays current if it is there.
function refilter() {
  const before = order[at];
  const byDoubt = (a, b) => doubt(a) - doubt(b);
  const isOpen = $("class").value === "" && ["", "open"].includes($("state").value) &&
    Number($("low").value) <= 0 && Number($("high").value) >= 1;
  const passing = images
    .map((image) => ({ image, own: image.boxes.filter(passes).sort(byDoubt) }))
    .filter(({ image, own }) => own.length || (isOpen && !image.boxes.length));
  // Images without a box come last.
  const rank = ({ own }) => (own.length ? doubt(own[0]) : 2);
  passing.sort((a, b) => rank(a) - rank(b));
  const entries = ({ image, own }) => (own.length ? own : [null]).map((box) => ({ image, box }));
  order = passing.flatMap(entries);
  listed = passing.map(({ image }) => image);
  const isBefore = ({ image, box }) => image === before?.image && box === before?.box;
  at = Math.max(0, order.findIndex(isBefore));
  thumbsShown = 60;
  show();
}

function show() {
  const { image, box } = order[at] ?? {};
  $("stage").replaceChildren();
  $("boxes").replaceChildren();
  $("name").textContent = image ? image.name : "Nothing passes the filter.";
  $("what").textContent = box ? `${data.classes[classOf(box)]} ${box.score.toFixed(2)}` : "";
  $("place").textContent = image ? `${at + 1} of ${order.length}` : "";
  $("legend").replaceChildren(...(masksShown ? image?.values ?? [] : []).map(colourOf));
  if (image) {
    $("name").href = image.full;
    showFull(draw($("stage"), image, box), image);
    $("boxes").append(...image.boxes.map((own) => line(own, own === box)));
    if (!image.boxes.length) $("boxes").append("The teacher found nothing here.");
    // Within the list alone: the page itself stays where it is.
    $("boxes").scrollTop = ($("boxes").querySelector(".current")?.offsetTop ?? 0) - 60;
    while (thumbsShown < listed.indexOf(image) + 1) thumbsShown += 60;
  } else {
    $("name").removeAttribute("href");
  }
  showThumbs();
  $("relabel").value = box ? classOf(box) : "";
  for (const id of ["accept", "reject", "relabel"]) $(id).disabled = !box;
  $("complete").disabled = !image;
  $("complete").setAttribute("aria-pressed", Boolean(image) && complete.has(image.place));
  $("undo").disabled = !steps.length;
  const decided = `${decisions.size} of ${boxes.length} boxes decided`;
  $("progress").textContent = `${decided}, ${complete.size} of ${images.length} images complete`;
}

// Where the image itself can be reached, it stands for its small copy.
function showFull(picture, image) {
  if (image.isGone) return;
  const whole = new Image();
  whole.onload = () => picture.setAttribute("href", image.full);
  whole.onerror = () => { image.isGone = true; };
  whole.src = image.full;
}

// What a colour of the masks stands for.
function colourOf(value) {
  const [name, colour] = data.masks[value];
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = colour.slice(0, 7); // without the opacity
  return element("span", {}, swatch, name);
}

function line(box, isCurrent) {
  const state = stateOf(box);
  const own = data.classes[box.category];
  const label = state === "relabel" ? `${own} → ${data.classes[classOf(box)]}` : own;
  const made = element(
    "button", { className: `box${isCurrent ? " current" : ""}`, onclick: () => goTo(box) },
    element("span", { className: `mark ${state}`, textContent: WORDS[state] }),
    element("span", { className: "label", textContent: label }),
    element("span", { textContent: box.score.toFixed(2) }),
  );
  made.dataset.number = box.number;
  return made;
}

function showThumbs() {
  const known = new Map([...$("thumbs").children].map((thumb) => [thumb.dataset.place, thumb]));
  const thumbs = listed.slice(0, thumbsShown).map((image) => {
    const thumb = known.get(String(image.place)) ?? thumbOf(image);
    showThumb(thumb, image);
    return thumb;
  });
  const { children } = $("thumbs");
  if (thumbs.length !== children.length || thumbs.some((thumb, n) => thumb !== children[n])) {
    $("thumbs").replaceChildren(...thumbs);
  }
  $("more").hidden = listed.length <= thumbsShown;
}

function thumbOf(image) {
  const first = () => order.findIndex((entry) => entry.image === image);
  const onclick = () => jump(first());
  const made = element("button", { className: "thumb", title: image.name, onclick });
  made.dataset.place = image.place;
  made.append(drawing("svg", {}), element("span", { textContent: image.name }));
  return made;
}

function showThumb(thumb, image) {
  thumb.classList.toggle("current", image === order[at]?.image);
  // Drawn again only where something has changed.
  const look = image.boxes.map(stateOf).join() + complete.has(image.place) + masksShown;
  if (thumb.dataset.look === look) return;
  thumb.dataset.look = look;
  draw(thumb.firstChild, image);
  thumb.lastChild.textContent = (complete.has(image.place) ? "✓ " : "") + image.name;
}

// --- numbers at the thresholds

const counts = []; // by class
const rows = []; // of the table, for classes that occur

// What is kept of a class: [kept, right, judged, objects].
function count(category) {
  const kept = byClass[category].filter(({ score }) => score >= thresholds[category]);
  const judged = data.objects
    ? kept.map(({ verdict }) => verdict).filter((verdict) => verdict !== null)
    : kept.filter(({ number }) => decisions.has(number)).map((box) => stateOf(box) === "accept");
  return [kept.length, judged.filter(Boolean).length, judged.length, data.objects?.[category] ?? 0];
}

function cellsOf([kept, right, judged, objects]) {
  const share = (whole) => (whole ? (right / whole).toFixed(2) : "–");
  return [kept, share(judged), data.objects ? share(objects) : judged];
}

// Counts the boxes of some classes anew, and all together.
function showNumbers(classes = byClass.keys()) {
  for (const category of classes) {
    counts[category] = count(category);
    if (rows[category]) fill(rows[category], counts[category], thresholds[category]);
  }
  const sum = (a, b) => a.map((number, column) => number + b[column]);
  fill($("thresholds").tBodies[0].rows[0], counts.reduce(sum, [0, 0, 0, 0]));
  const shown = thresholds.map((value) => Number(value.toFixed(2))).join(", ");
  $("yaml").textContent = `CLASS_SCORE_THRESH: [${shown}]`;
}

function fill(row, numbers, threshold) {
  cellsOf(numbers).forEach((text, column) => { row.cells[2 + column].textContent = text; });
  if (threshold === undefined) return;
  row.querySelector("input").value = threshold;
  row.querySelector("output").value = threshold.toFixed(2);
}

function makeThresholds() {
  const last = data.objects ? ["precision", "recall"] : ["right", "decided"];
  const titles = ["class", "threshold", "kept", ...last];
  const cells = titles.map((text) => element("th", { textContent: text }));
  $("thresholds").tHead.append(element("tr", {}, ...cells));
  $("estimate").textContent = data.objects
    ? "Measured against the ground truth of --report-against, at an IoU of 0.5."
    : "Right: the share of accepted boxes among those of your decisions that reach the threshold.";
  const occurring = [...byClass.keys()].filter((k) => byClass[k].length || data.objects?.[k]);
  addRow("all", [...byClass.keys()]);
  for (const category of occurring) rows[category] = addRow(data.classes[category], [category]);
}

function addRow(name, classes) {
  const value = element("output");
  const slider = element("input", { type: "range", min: 0, max: 1, step: 0.01 });
  slider.value = data.lowest;
  slider.setAttribute("aria-label", `Threshold of ${name}`);
  slider.oninput = () => {
    for (const category of classes) thresholds[category] = Number(slider.value);
    value.value = Number(slider.value).toFixed(2);
    showNumbers(classes);
  };
  slider.onchange = () => { save(); refilter(); };
  const row = element("tr", {},
    element("td", { textContent: name }), element("td", {}, slider, " ", value),
    element("td"), element("td"), element("td"));
  $("thresholds").tBodies[0].append(row);
  return row;
}

// --- steps

function jump(place) {
  if (place >= 0 && place < order.length) at = place;
  show();
}

function goTo(box) {
  const place = order.findIndex((entry) => entry.box === box);
  if (place < 0) { // the filter leaves it out
    const all = { class: "", state: "", low: 0, high: 1 };
    for (const [id, value] of Object.entries(all)) $(id).value = value;
    order[at] = { image: order[at].image, box };
    return refilter();
  }
  jump(place);
}

function goImage(step) {
  const next = listed[listed.indexOf(order[at]?.image) + step];
  if (next) jump(order.findIndex(({ image }) => image === next));
}

// The next box that waits for a decision.
function advance() {
  const next = order.findIndex(({ box }, place) => place > at && box && stateOf(box) === "open");
  jump(next < 0 ? at : next);
}

function decide(category) {
  const { box } = order[at] ?? {};
  if (!box) return;
  const [had, before, place] = [decisions.has(box.number), decisions.get(box.number), at];
  steps.push(() => {
    if (had) decisions.set(box.number, before);
    else decisions.delete(box.number);
    showNumbers([box.category]);
    return place;
  });
  decisions.set(box.number, category);
  save();
  showNumbers([box.category]);
  advance();
}

function completeImage() {
  const { image } = order[at] ?? {};
  if (!image) return;
  const [was, place] = [complete.has(image.place), at];
  const set = (isTrue) => (isTrue ? complete.add(image.place) : complete.delete(image.place));
  steps.push(() => { set(was); return place; });
  set(!was);
  save();
  if (was) show();
  else advance();
}

function undo() {
  const step = steps.pop();
  if (!step) return;
  const place = step();
  save();
  jump(place);
}

// --- keeping and handing over

function save() {
  const kept = { decisions: [...decisions], complete: [...complete], thresholds };
  try {
    localStorage.setItem(STORE, JSON.stringify(kept));
  } catch { /* a browser that keeps nothing for files: the download still works */ }
}

function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE));
    if (!kept) return;
    const shown = new Set(boxes.map(({ number }) => number));
    decisions = new Map(kept.decisions.filter(([number]) => shown.has(number)));
    complete = new Set(kept.complete);
    thresholds = kept.thresholds;
  } catch { /* nothing is kept */ }
}

function forget() {
  if (!confirm("Forget all decisions and thresholds?")) return;
  [decisions, complete, thresholds] = [new Map(), new Set(), data.classes.map(() => data.lowest)];
  steps.length = 0;
  order = [];
  save();
  showNumbers();
  refilter();
}

// What --apply-review takes.
function review() {
  const taken = boxes.filter((box) => decisions.has(box.number));
  taken.sort((a, b) => a.number - b.number);
  const raised = [...thresholds.keys()].filter((k) => thresholds[k] > data.lowest);
  return {
    version: 1,
    file: data.file,
    sha256: data.sha256,
    boxes: taken.map((box) => {
      const entry = { box: box.number, decision: stateOf(box) };
      return entry.decision === "relabel" ? { ...entry, category_id: classOf(box) } : entry;
    }),
    complete: [...complete].sort((a, b) => a - b),
    thresholds: Object.fromEntries(raised.map((k) => [data.classes[k], thresholds[k]])),
  };
}

function download() {
  const content = new Blob([JSON.stringify(review(), null, 1)], { type: "application/json" });
  const href = URL.createObjectURL(content);
  element("a", { href, download: "decisions.json" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

// --- the page

// Keys 1 to 9 are the first nine classes; of more, the nine that occur most.
function keyClasses() {
  const all = [...byClass.keys()];
  if (all.length <= 9) return all;
  return all.sort((a, b) => byClass[b].length - byClass[a].length || a - b).slice(0, 9);
}

const digits = keyClasses();
const KEYS = {
  ArrowRight: () => jump(at + 1),
  ArrowLeft: () => jump(at - 1),
  ArrowDown: () => goImage(1),
  ArrowUp: () => goImage(-1),
  a: () => decide(order[at]?.box?.category),
  r: () => decide(null),
  u: undo,
  c: completeImage,
  m: () => { masksShown = !masksShown; show(); },
  z: () => { zoomed = !zoomed; show(); },
};
KEYS.n = KEYS.ArrowRight;
KEYS.p = KEYS.ArrowLeft;
digits.forEach((category, number) => { KEYS[number + 1] = () => decide(category); });

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || !(key in KEYS)) return;
  if (target.matches("select, input[type=number]")) return;
  if (target.matches("input[type=range]") && key.startsWith("Arrow")) return;
  event.preventDefault();
  KEYS[key]();
});

$("previous").onclick = KEYS.p;
$("next").onclick = KEYS.n;
$("accept").onclick = KEYS.a;
$("reject").onclick = KEYS.r;
$("undo").onclick = undo;
$("complete").onclick = completeImage;
$("zoom").onclick = KEYS.z;
$("masks").onclick = KEYS.m;
for (const made of document.querySelectorAll(".of-masks")) {
  made.hidden = !images.some(({ mask }) => mask);
}
$("download").onclick = download;
$("forget").onclick = forget;
$("more").onclick = () => { thumbsShown += 60; showThumbs(); };
$("relabel").onchange = () => { decide(Number($("relabel").value)); $("relabel").blur(); };
for (const id of ["class", "state", "low", "high"]) {
  $(id).onchange = () => { $(id).blur(); refilter(); };
}
$("stage").onclick = (event) => {
  const box = boxes.find(({ number }) => String(number) === event.target.dataset.number);
  if (box) goTo(box);
};

const option = (name, value) => element("option", { value, textContent: name });
const options = () => data.classes.map(option);
$("class").append(option("all", ""), ...options());
$("relabel").append(...options());
$("digits").append(...digits.flatMap((k, number) => [
  number ? ", " : "", element("kbd", { textContent: number + 1 }), ` ${data.classes[k]}`,
]));
const part = data.total > images.length
  ? `the ${images.length} most doubtful of ${data.total} images`
  : `${images.length} images`;
$("about").textContent = `${data.file}, ${data.dataset}: ${boxes.length} boxes, ${part}`;
restore();
makeThresholds();
showNumbers();
refilter();

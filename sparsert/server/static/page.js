"use strict";
// Send a request to an endpoint, with the fields of its schema, and show the answer. No library, nothing from elsewhere.
const element = (id) => document.getElementById(id);
let api;

const resolved = (schema) => api.components.schemas[schema.$ref.split("/").at(-1)];

async function loadEndpoints() {
  api = await (await fetch("/openapi.json")).json();
  const paths = Object.keys(api.paths).filter((path) => path.startsWith("/v2/models/") && path.endsWith("/infer"));
  element("endpoint").replaceChildren(...paths.map((path) => new Option(path.split("/").at(-2), path)));
  element("endpoint-label").hidden = paths.length < 2;
  if (paths.length) showFields();
}

// What the chosen endpoint takes and gives; what follows in each list is the form of tensors.
function chosen() {
  const { requestBody, responses } = api.paths[element("endpoint").value].post;
  const request = requestBody.content["application/json"];
  const answer = responses["200"].content["application/json"];
  const example = request.examples?.plain.value ?? {};
  return { input: resolved(request.schema.anyOf[0]), output: resolved(answer.schema.anyOf[0]), example };
}

function showFields() {
  const { input, example } = chosen();
  const required = input.required ?? [];
  const names = Object.keys(input.properties ?? {});
  const shown = names.filter((name) => required.includes(name) || name in example);
  element("fields").replaceChildren(...(shown.length ? shown : names).map((name) => {
    const field = document.createElement("textarea");
    const value = example[name] ?? "";
    Object.assign(field, { name, required: required.includes(name) });
    field.value = textOf(value, input.properties[name]);
    field.rows = Math.min(field.value.split("\n").length + Math.floor(field.value.length / 50), 12);
    if (field.rows === 1) field.addEventListener("keydown", askOnEnter);
    const label = document.createElement("label");
    label.append(input.properties[name].title ?? name, field);
    return label;
  }));
}

function askOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element("form").requestSubmit();
}

const kindsOf = (schema) => (schema.anyOf ?? [schema]).filter((kind) => kind.type !== "null");

const takesTexts = (schema) =>
  kindsOf(schema).some((kind) => kind.type === "array" && kindsOf(kind.items ?? {}).some((item) => item.type === "string"));

// What valueOf makes of it again: texts a line each, anything else as JSON.
function textOf(value, schema) {
  if (typeof value === "string") return value;
  const lines = takesTexts(schema) && Array.isArray(value) && value.length > 1
    && value.every((text) => typeof text === "string" && !text.includes("\n"));
  return lines ? value.join("\n") : JSON.stringify(value);
}

// A text, which may be null, as it is; several texts from a line each; anything else as JSON, if it is that.
function valueOf(field, schema) {
  const kinds = kindsOf(schema);
  if (kinds.length && kinds.every((kind) => kind.type === "string")) return field.value;
  try {
    const value = JSON.parse(field.value);
    if (typeof value === "object" || !takesTexts(schema)) return value;
  } catch {
    // no JSON, so it is text
  }
  if (!takesTexts(schema)) return field.value;
  const lines = field.value.split("\n").filter((line) => line.trim());
  return lines.length > 1 || kinds.every((kind) => kind.type !== "string") ? lines : field.value;
}

const made = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

const listOf = (value) => (Array.isArray(value) ? value : [value]);

// A label with its score as a bar; scores beyond 0 to 1 have no bar.
function bar(label, score) {
  const row = made("div", { className: "bar" }, made("span", { textContent: label }));
  if (score >= 0 && score <= 1) row.append(made("meter", { value: score }));
  row.append(made("output", { textContent: score.toFixed(3) }));
  return row;
}

// Pieces of a text marked, from {start, end} in code points; a JavaScript string counts UTF-16 units.
function marked(text, pieces, nameOf = () => "") {
  const points = Array.from(text);
  const nodes = [];
  let at = 0;
  for (const piece of [...pieces].sort((a, b) => a.start - b.start)) {
    if (piece.start < at) continue;
    const mark = made("mark", { textContent: points.slice(piece.start, piece.end).join("") });
    if (nameOf(piece)) mark.append(made("small", { textContent: nameOf(piece) }));
    nodes.push(points.slice(at, piece.start).join(""), mark);
    at = piece.end;
  }
  return [...nodes, points.slice(at).join("")];
}

// Cosines of vectors with each other, a row and a column for each text.
function similarities(texts, vectors) {
  const lengths = vectors.map((vector) => Math.hypot(...vector) || 1);
  const cosine = (i, j) => vectors[i].reduce((sum, value, k) => sum + value * vectors[j][k], 0) / lengths[i] / lengths[j];
  const head = made("tr", {}, made("th"), ...texts.map((_, i) => made("th", { textContent: i + 1 })));
  const rows = texts.map((text, i) => made("tr", {}, made("th", { textContent: `${i + 1} ${text}` }),
    ...texts.map((_, j) => {
      const cell = made("td", { textContent: cosine(i, j).toFixed(2) });
      cell.style.setProperty("--share", `${Math.round(Math.max(0, cosine(i, j)) * 60)}%`);
      return cell;
    })));
  return [made("p", { textContent: `${vectors.length} vectors of ${vectors[0].length} numbers; their cosines:` }),
    made("table", {}, head, ...rows)];
}

// What each form of an answer looks like: the field that tells it, and how it is shown.
const VIEWS = {
  embeddings: (request, answer) => {
    const plain = answer.embeddings.every((vector) => vector.every((value) => typeof value === "number"));
    return plain ? similarities(listOf(request.inputs), answer.embeddings) : undefined;
  },
  predictions: (request, answer) => {
    const texts = listOf(request.inputs);
    if (texts.length !== answer.predictions.length) return undefined; // the words of one text
    return texts.map((text, i) =>
      made("p", { className: "entities" }, ...marked(text, answer.predictions[i], (found) => found.entity)));
  },
  results: (request, answer) => answer.results.map((found) => bar(request.documents[found.index], found.score)),
  labels: (request, answer) => {
    const texts = typeof request.sequences === "string" ? [request.sequences] : request.sequences;
    const nested = Array.isArray(answer.labels[0]);
    const single = !nested && answer.labels.length !== texts.length;
    return texts.map((text, i) => {
      const labels = single ? answer.labels : listOf(answer.labels[i]);
      const scores = single ? answer.scores : listOf(answer.scores[i]);
      return made("section", {}, made("p", { textContent: listOf(text).join(" \u2016 ") }),
        ...labels.map((label, k) => bar(label, scores[k])));
    });
  },
};

// The view of an answer, if it has one. A task of one's own may have a field of such a name that means something else.
function viewOf(request, answer) {
  const view = Object.keys(VIEWS).find((name) => Array.isArray(answer[name]));
  try {
    return view && VIEWS[view](request, answer);
  } catch {
    return undefined;
  }
}

// Shows an answer by its form: pieces marked in a field of the request, a view of its own, or as it came. Says what was
// found.
function showAnswer(request, answer, place) {
  element("highlighted").hidden = false;
  if (place === undefined || Array.isArray(answer)) {
    element("highlighted").replaceChildren(...(viewOf(request, answer) ?? [JSON.stringify(answer, null, 2)]));
    return "";
  }
  element("highlighted").replaceChildren(...marked(request[place], [answer]));
  if (answer.start === answer.end) return "no answer, ";
  return answer.score === undefined ? "" : `score ${answer.score.toFixed(2)}, `;
}

function showStatus(text, isError) {
  element("status").textContent = text;
  element("status").className = isError ? "error" : "";
}

async function ask(event) {
  event.preventDefault();
  const headers = { "Content-Type": "application/json" };
  if (element("key").value) headers.Authorization = `Bearer ${element("key").value}`;
  element("ask").disabled = true;
  element("highlighted").hidden = true;
  showStatus("…", false);
  try {
    const { input, output } = chosen();
    const filled = [...element("fields").querySelectorAll("textarea")].filter((field) => field.required || field.value);
    const request = Object.fromEntries(
      filled.map((field) => [field.name, valueOf(field, input.properties[field.name])]));
    const start = performance.now();
    const response = await fetch(element("endpoint").value, { method: "POST", headers, body: JSON.stringify(request) });
    const content = await response.json();
    const milliseconds = (performance.now() - start).toFixed(0);
    if (response.status === 401) element("key-label").hidden = false;
    if (!response.ok) {
      showStatus(`${response.status}: ${content.error}`, true);
    } else {
      showStatus(`${showAnswer(request, content, output["x-span-of"])}${milliseconds} ms`, false);
    }
  } catch (error) {
    showStatus(`the server does not answer: ${error.message}`, true);
  } finally {
    element("ask").disabled = false;
  }
}

element("form").addEventListener("submit", ask);
element("endpoint").addEventListener("change", showFields);
loadEndpoints();

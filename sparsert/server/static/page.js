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
    field.value = typeof value === "string" ? value : JSON.stringify(value);
    field.rows = Math.min(1 + Math.floor(field.value.length / 50), 12);
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

// A text, which may be null, as it is; anything else as JSON, if it is that.
function valueOf(field, schema) {
  const kinds = (schema.anyOf ?? [schema]).map((kind) => kind.type).filter((kind) => kind !== "null");
  if (kinds.length && kinds.every((kind) => kind === "string")) return field.value;
  try {
    return JSON.parse(field.value);
  } catch {
    return field.value;
  }
}

// A piece of a field of the request is marked there; any other answer is shown as it came. Says what was found.
function showAnswer(request, answer, place) {
  element("highlighted").hidden = false;
  if (place === undefined || Array.isArray(answer)) {
    element("highlighted").replaceChildren(JSON.stringify(answer, null, 2));
    return "";
  }
  // Offsets count code points; a JavaScript string counts UTF-16 units.
  const points = Array.from(request[place]);
  const mark = document.createElement("mark");
  mark.id = "answer";
  mark.textContent = points.slice(answer.start, answer.end).join("");
  element("highlighted").replaceChildren(
    points.slice(0, answer.start).join(""), mark, points.slice(answer.end).join(""));
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

"use strict";
// Ask a question and mark the answer in its context. No library, nothing from elsewhere.
const element = (id) => document.getElementById(id);

async function loadEndpoints() {
  const response = await fetch("/openapi.json");
  const paths = Object.keys((await response.json()).paths).filter((path) => path.endsWith("/infer"));
  element("endpoint").replaceChildren(...paths.map((path) => new Option(path.split("/").at(-2), path)));
  element("endpoint-label").hidden = paths.length < 2;
}

function showAnswer(context, answer) {
  // Offsets count code points; a JavaScript string counts UTF-16 units.
  const points = Array.from(context);
  const mark = document.createElement("mark");
  mark.id = "answer";
  mark.textContent = points.slice(answer.start, answer.end).join("");
  element("highlighted").replaceChildren(
    points.slice(0, answer.start).join(""), mark, points.slice(answer.end).join(""));
  element("highlighted").hidden = false;
}

function showStatus(text, isError) {
  element("status").textContent = text;
  element("status").className = isError ? "error" : "";
}

async function ask(event) {
  event.preventDefault();
  const context = element("context").value;
  const headers = { "Content-Type": "application/json" };
  if (element("key").value) headers.Authorization = `Bearer ${element("key").value}`;
  element("ask").disabled = true;
  element("highlighted").hidden = true;
  showStatus("…", false);
  try {
    const start = performance.now();
    const response = await fetch(element("endpoint").value, {
      method: "POST", headers, body: JSON.stringify({ question: element("question").value, context }) });
    const content = await response.json();
    const milliseconds = (performance.now() - start).toFixed(0);
    if (response.status === 401) element("key-label").hidden = false;
    if (!response.ok) {
      showStatus(`${response.status}: ${content.error}`, true);
    } else {
      showAnswer(context, content);
      const found = content.answer === "" ? "no answer" : `score ${content.score.toFixed(2)}`;
      showStatus(`${found}, ${milliseconds} ms`, false);
    }
  } catch (error) {
    showStatus(`the server does not answer: ${error.message}`, true);
  } finally {
    element("ask").disabled = false;
  }
}

element("form").addEventListener("submit", ask);
loadEndpoints();

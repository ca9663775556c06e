"use strict";
// Shows the OpenAPI document, and sends requests with it. No library: nothing is fetched but /openapi.json.

const make = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

const exampleOf = (media) => media.example ?? Object.values(media.examples ?? {})[0]?.value;

function parametersOf(operation) {
  const table = make("table");
  for (const parameter of operation.parameters ?? []) {
    const row = make("tr");
    const name = parameter.name + (parameter.required ? " (needed)" : "");
    const input = make("input", undefined, { "data-in": parameter.in, "data-name": parameter.name });
    const cell = make("td");
    cell.append(input);
    row.append(make("td", name), make("td", parameter.in), cell, make("td", parameter.description ?? ""));
    table.append(row);
  }
  return table;
}

function answersOf(operation) {
  const list = make("div");
  for (const [status, answer] of Object.entries(operation.responses ?? {})) {
    const details = make("details");
    details.append(make("summary", `${status} ${answer.description ?? ""}`));
    for (const [type, media] of Object.entries(answer.content ?? {})) {
      details.append(make("div", type));
      const example = exampleOf(media);
      if (example !== undefined) details.append(make("pre", pretty(example)));
    }
    list.append(details);
  }
  return list;
}

function requestOf(method, path, form, body) {
  let url = path;
  const query = new URLSearchParams();
  const headers = {};
  for (const input of form.querySelectorAll("input[data-in]")) {
    if (input.dataset.in === "path") url = url.replace(`{${input.dataset.name}}`, encodeURIComponent(input.value));
    else if (input.dataset.in === "query" && input.value !== "") query.append(input.dataset.name, input.value);
    else if (input.dataset.in === "header" && input.value !== "") headers[input.dataset.name] = input.value;
  }
  const token = document.getElementById("token").value;
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = body.dataset.type;
  const options = { method, headers, body: body && body.value ? body.value : undefined };
  return [query.size ? `${url}?${query}` : url, options];
}

async function send(method, path, form, body, out) {
  try {
    const answer = await fetch(...requestOf(method, path, form, body));
    const text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* no JSON: shown as it is */ }
    const headers = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    out.textContent = `${answer.status} ${answer.statusText}\n${headers}\n\n${shown}`;
  } catch (error) {
    out.textContent = String(error);
  }
}

function show(path, method, operation) {
  const details = make("details", undefined, { id: operation.operationId ?? "" });
  const summary = make("summary");
  summary.append(make("code", method, { class: method }), ` ${path} `, make("span", operation.summary ?? ""));
  details.append(summary, make("p", operation.description ?? ""));
  details.append(parametersOf(operation));
  let body;
  for (const [type, media] of Object.entries(operation.requestBody?.content ?? {}).slice(0, 1)) {
    body = make("textarea", undefined, { "data-type": type, "aria-label": "body" });
    body.value = pretty(exampleOf(media) ?? "");
    details.append(make("div", type), body);
  }
  const out = make("pre");
  const button = make("button", "Send");
  button.addEventListener("click", () => send(method, path, details, body, out));
  details.append(button, out, make("h4", "Answers"), answersOf(operation));
  return details;
}

async function start() {
  const main = document.getElementById("operations");
  const api = await (await fetch("/openapi.json")).json();
  document.getElementById("about").textContent = api.info.description ?? "";
  const sections = new Map((api.tags ?? []).map((tag) => [tag.name, make("section")]));
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = operation.tags?.[0] ?? "other";
      if (!sections.has(tag)) sections.set(tag, make("section"));
      sections.get(tag).append(show(path, method.toUpperCase(), operation));
    }
  }
  for (const [tag, section] of sections) {
    if (section.childElementCount) main.append(make("h2", tag), section);
  }
}

start();

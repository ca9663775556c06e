"use strict";
// Shows the OpenAPI document of this server with Swagger UI. Nothing else is fetched.

// The item id of the examples (schemas/examples.py). Requests get a fresh one on each load: an id that was used before
// is ignored as a duplicate.
const EXAMPLE_ID = "5d44d2ad9aabab30";

function freshId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function withFreshIds(spec) {
  const id = freshId();
  for (const operations of Object.values(spec.paths)) {
    for (const operation of Object.values(operations)) {
      if (operation.requestBody) {
        operation.requestBody = JSON.parse(JSON.stringify(operation.requestBody).replaceAll(EXAMPLE_ID, id));
      }
    }
  }
  return spec;
}

async function start() {
  const response = await fetch("/openapi.json");
  SwaggerUIBundle({
    spec: withFreshIds(await response.json()),
    domNode: document.getElementById("reference"),
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
  });
}

start().catch((error) => {
  const failure = document.createElement("p");
  failure.id = "failure";
  failure.textContent = `The OpenAPI document could not be loaded: ${error}`;
  document.body.prepend(failure);
});

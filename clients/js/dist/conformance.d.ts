/** The adapter of this client for the conformance kit: `gregor conformance -- node clients/js/dist/conformance.js`. */
export {};

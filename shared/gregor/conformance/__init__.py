"""The conformance kit: test vectors, and a simulated server behind a lossy network, for clients in any language.

`gregor conformance -- COMMAND` exchanges JSON lines with the client (docs/how-to/conformance.md). No service uses this
package.
"""

"""The conformance kit: its vectors, its simulation, and the faults that it finds."""

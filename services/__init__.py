"""The services of Gregor, each a process of its own; none imports another."""

"""Messages: model, parsing, and the plan that turns a message into a commit."""

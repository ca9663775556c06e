"""Foreign tools that read the OpenAPI document: a linter and three client generators."""

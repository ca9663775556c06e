"""The files of deploy/, checked by the tools that operators use. `make test-deploy` runs these tests."""

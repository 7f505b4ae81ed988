"""River's conformance contract, spoken over a pipe: `python -m tests.conformance.adapter`, and what is tested of it."""

"""An OpenAI-compatible server on llama-cpp-python: settings, schema, engine, app."""

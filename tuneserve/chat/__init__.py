"""Conversations as the model reads and writes them: chat templates, prompts, thoughts, tools."""

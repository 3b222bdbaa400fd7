"""The tool catalogues of MCP servers: all of each are sent with a chat, choice auto."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import checks
import openai
from checks import MODEL, QUESTION
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

NODE = Path(os.environ.get("TUNESERVE_NODE", "."), "node_modules", ".bin")
PATIENCE = 20
"""Seconds."""
folder = tempfile.mkdtemp(prefix="mcp-")

SERVERS: dict[str, list[str]] = {
    "everything": ["mcp-server-everything"],
    "filesystem": ["mcp-server-filesystem", folder],
    "memory": ["mcp-server-memory"],
    "sequential thinking": ["mcp-server-sequential-thinking"],
    "github": ["mcp-server-github"],
    "playwright": ["playwright-mcp"],
    "notion": ["notion-mcp-server"],
    "chrome devtools": ["chrome-devtools-mcp"],
    "context7": ["context7-mcp"],
    "tavily": ["tavily-mcp"],
    "fetch": ["mcp-server-fetch"],
    "git": ["mcp-server-git"],
    "time": ["mcp-server-time"],
}
"""Command of each server; those of Node are in the folder of its packages."""

ENVIRONMENT = {"GITHUB_PERSONAL_ACCESS_TOKEN": "none", "NOTION_TOKEN": "none",
               "TAVILY_API_KEY": "none", "MEMORY_FILE_PATH": f"{folder}/memory.json"}  # fmt: skip
"""Some ask for a key before they tell their tools, and use it only when one is called."""


async def catalogue(command: list[str]) -> list[dict[str, Any]]:
    """A server's tools, in the form of chat completions."""
    program = str(NODE / command[0]) if (NODE / command[0]).exists() else command[0]
    parameters = StdioServerParameters(
        command=program, args=command[1:], env={**os.environ, **ENVIRONMENT}
    )
    with Path(os.devnull).open("w") as silence:
        async with (
            stdio_client(parameters, errlog=silence) as (read, write),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            listed = await session.list_tools()
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.inputSchema,
            },
        }
        for tool in listed.tools
    ]


async def ask(tools: list[dict[str, Any]]) -> None:
    """Send them all. What is read of the answer ends after PATIENCE: the largest catalogue has
    23,000 tokens, which a CPU computes for minutes."""
    client: Any = openai.AsyncOpenAI(base_url=checks.V1, api_key=checks.KEY, max_retries=0)
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        tools=tools,
        tool_choice="auto",
        max_completion_tokens=16,
        stream=True,
    )
    async with stream:
        try:
            async with asyncio.timeout(PATIENCE):
                chunks = [chunk async for chunk in stream]
        except TimeoutError:
            return
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert any(delta.content or delta.tool_calls for delta in deltas), "an empty message"


def check(name: str) -> Any:
    async def body() -> None:
        tools = await asyncio.wait_for(catalogue(SERVERS[name]), 120)
        assert tools, "the MCP server has no tools"
        await ask(tools)

    body.__name__ = name
    return body


if __name__ == "__main__":
    checks.run("mcp", *(check(name) for name in SERVERS), name="MCP catalogues")

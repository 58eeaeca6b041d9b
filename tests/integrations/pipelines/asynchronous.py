"""An async pipeline: its calls of the store come from inside a running event loop."""

import asyncio
from collections.abc import AsyncIterator

from runnable import AsyncPipeline, AsyncPythonTask


async def fetch() -> list[int]:
    await asyncio.sleep(0)
    return [1, 2]


async def tell(found: list) -> AsyncIterator[dict]:
    for number in found:
        yield {"type": "number", "number": number}
    yield {"type": "done", "told": len(found)}


def main() -> AsyncPipeline:
    return AsyncPipeline(
        name="asynchronous",
        steps=[
            AsyncPythonTask(name="fetch", function=fetch, returns=["found"]),
            AsyncPythonTask(name="tell", function=tell, returns=["told"]),
        ],
    )


async def stream() -> list[int]:
    return [event["number"] async for event in main().execute_streaming() if "number" in event]


if __name__ == "__main__":
    print("EVENTS", asyncio.run(stream()))  # noqa: T201  its test reads it

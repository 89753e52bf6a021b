"""The server around a model that is slow, or that fails."""

import asyncio
import threading

import aiohttp

from hires.explore.server import application, serve


class Slow:
    """A model that answers when it is told to."""

    def __init__(self):
        self.begun, self.may_end = [], threading.Event()

    def info(self):
        return {"begun": len(self.begun)}

    def sample(self, seeds):
        self.begun.append(seeds)
        assert self.may_end.wait(60)
        return seeds


def test_the_model_answers_one_at_a_time_and_the_server_meanwhile():
    async def scene():
        slow, address = Slow(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(application(slow, {"localhost"}), "127.0.0.1", 0, lambda *found: address.set_result(found)))
        host, port = await address
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:

            async def sample(seed):
                async with session.post("/api/sample", json={"seeds": seed}) as answer:
                    return await answer.json()

            async def begun():
                async with session.get("/api/info") as answer:
                    return (await answer.json())["begun"]

            first = asyncio.create_task(sample(1))
            while await begun() < 1:  # the server answers while the model is busy
                await asyncio.sleep(0.01)
            gone, last = asyncio.create_task(sample(2)), asyncio.create_task(sample(3))
            await asyncio.sleep(0.2)
            gone.cancel()  # a tab that was closed
            await asyncio.sleep(0.2)
            assert await begun() == 1
            slow.may_end.set()
            assert (await first, await last) == ({"pictures": 1}, {"pictures": 3})
            assert slow.begun == [1, 3]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(scene())


def test_a_model_that_fails_is_told(capfd):
    class Broken(Slow):
        def sample(self, seeds):
            raise RuntimeError("out of memory\nand more")

    async def scene():
        address = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(application(Broken(), {"localhost"}), "127.0.0.1", 0, lambda *found: address.set_result(found)))
        host, port = await address
        async with aiohttp.ClientSession() as session, session.post(f"http://{host}:{port}/api/sample", json={"seeds": 1}) as answer:
            assert (answer.status, await answer.json()) == (500, {"error": "RuntimeError: out of memory"})
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(scene())

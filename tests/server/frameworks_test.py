#!/usr/bin/env python3
"""LangChain's ChatOpenAI and the OpenAI Agents SDK, unmodified, against a running server.

usage: frameworks_test.py       (TESSERA_PROGRAM: the program) exits 77 where neither langchain_openai nor agents is
installed; -DTESSERA_PYTHON=PYTHON at configuration time names a Python that has them
"""
import asyncio
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
os.environ.setdefault("LANGSMITH_TRACING", "false")
try:
    import langchain_openai
except ImportError:
    langchain_openai = None
try:
    import agents
    import openai
except ImportError:
    agents = None
if langchain_openai is None and agents is None:
    print("frameworks_test: neither langchain-openai nor openai-agents is installed; skipped")
    sys.exit(77)
from harness import COURAGE, WEATHER, Server  # noqa: E402

WEATHER_ASK = "What is the weather in Paris?"
REPORT = '{"temperature": 21, "condition": "sunny"}'


def setUpModule():
    global server
    server = Server()


def tearDownModule():
    server.stop()


@unittest.skipIf(langchain_openai is None, "langchain-openai is not installed")
class LangChain(unittest.TestCase):
    def model(self, **more):
        return langchain_openai.ChatOpenAI(base_url=server.url + "/v1", api_key="none", model="glossary", temperature=0,
                                           max_retries=0, **more)

    def test_chat(self):
        reply = self.model().invoke("Define courage.")
        self.assertEqual(reply.content, COURAGE)
        self.assertEqual(reply.response_metadata["finish_reason"], "stop")
        self.assertGreater(reply.usage_metadata["output_tokens"], 20)
        self.assertEqual([r.content for r in self.model().batch(["Define courage."] * 3)], [COURAGE] * 3)

    def test_stream(self):
        self.assertEqual("".join(chunk.content for chunk in self.model().stream("Define courage.")), COURAGE)

        async def stream():
            return "".join([chunk.content async for chunk in self.model().astream("Define courage.")])
        self.assertEqual(asyncio.run(stream()), COURAGE)

    def test_limits_and_stop(self):
        self.assertEqual(self.model(max_tokens=3).invoke("Define courage.").response_metadata["finish_reason"], "length")
        self.assertNotIn("spirit", self.model().invoke("Define courage.", stop=["spirit"]).content)
        self.assertTrue(self.model(logprobs=True, top_logprobs=2).invoke("Define courage.").response_metadata["logprobs"]["content"])

    def test_tools(self):
        from langchain_core.messages import HumanMessage, ToolMessage
        model = self.model().bind_tools([WEATHER])
        history = [HumanMessage(WEATHER_ASK)]
        called = model.invoke(history)
        self.assertEqual([(c["name"], c["args"]) for c in called.tool_calls], [("get_weather", {"location": "Paris"})])
        history += [called, ToolMessage(REPORT, tool_call_id=called.tool_calls[0]["id"])]
        # LangChain does not send reasoning back on this route, and the tiny model needs it to make sense of the result.
        self.assertEqual(model.invoke(history).response_metadata["finish_reason"], "stop")
        whole = None
        for chunk in model.stream(WEATHER_ASK):
            whole = chunk if whole is None else whole + chunk
        self.assertEqual(whole.tool_calls[0]["args"], {"location": "Paris"})
        for choice in ("any", "get_weather"):
            forced = self.model(max_tokens=300).bind_tools([WEATHER], tool_choice=choice).invoke("Define courage.")
            self.assertIn("get_weather", str(forced))

    def test_structured(self):
        schema = {"title": "entry", "description": "An entry.", "type": "object", "additionalProperties": False,
                  "properties": {"word": {"type": "string", "maxLength": 20}, "noun": {"type": "boolean"}},
                  "required": ["word", "noun"]}
        for method in ("json_schema", "function_calling"):
            entry = self.model(max_tokens=400).with_structured_output(schema, method=method).invoke("Define courage.")
            self.assertEqual(set(entry), {"word", "noun"}, method)

    def test_responses(self):
        reply = self.model(use_responses_api=True).invoke("Define courage.")
        self.assertEqual(reply.text if isinstance(reply.text, str) else reply.text(), COURAGE)
        model = self.model(use_responses_api=True).bind_tools([WEATHER])
        called = model.invoke(WEATHER_ASK)
        self.assertEqual(called.tool_calls[0]["args"], {"location": "Paris"})
        result = {"role": "tool", "tool_call_id": called.tool_calls[0]["id"], "content": REPORT}
        done = model.invoke([{"role": "user", "content": WEATHER_ASK}, called, result])
        self.assertIn("21", done.text if isinstance(done.text, str) else done.text())
        text = "".join(c.text if isinstance(c.text, str) else c.text() for c in
                       self.model(use_responses_api=True).stream("Define courage."))
        self.assertEqual(text, COURAGE)


@unittest.skipIf(agents is None, "openai-agents is not installed")
class Agents(unittest.TestCase):
    def setUp(self):
        agents.set_tracing_disabled(True)
        self.asked = []

        @agents.function_tool
        def get_weather(location: str) -> str:
            """Gets the weather."""
            self.asked.append(location)
            return REPORT
        self.tool = get_weather

    def run_agent(self, kind, question, stream=False, **more):
        """The final output, and the types of the events."""
        async def run():
            async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
                agent = agents.Agent(name="helper", model=kind(model="glossary", openai_client=client),
                                     model_settings=agents.ModelSettings(temperature=0), **more)
                if not stream:
                    return (await agents.Runner.run(agent, question)).final_output, []
                done = agents.Runner.run_streamed(agent, question)
                types = [event.type async for event in done.stream_events()]
                return done.final_output, types
        return asyncio.run(run())

    def test_answers(self):
        for kind in (agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel):
            self.assertEqual(self.run_agent(kind, "Define courage.")[0], COURAGE, kind)

    def test_tools(self):
        for stream in (False, True):
            for kind in (agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel):
                self.asked.clear()
                output, types = self.run_agent(kind, WEATHER_ASK, stream, tools=[self.tool])
                self.assertEqual(self.asked, ["Paris"], kind)
                if kind is agents.OpenAIResponsesModel:  # the other does not send reasoning back
                    self.assertIn("21", output)
                if stream:
                    self.assertIn("raw_response_event", types)


if __name__ == "__main__":
    unittest.main(verbosity=1)

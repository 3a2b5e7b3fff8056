#!/usr/bin/env python3
"""The unmodified `openai` and `anthropic` clients against a running server: chat, streams, tools, structured output,
responses, errors, asynchronous forms.

usage: client_test.py       (TESSERA_PROGRAM: the program) exits 77 where the openai package is not installed
"""
import asyncio
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
try:
    import openai
except ImportError:
    print("client_test: the openai package is not installed; skipped")
    sys.exit(77)
try:
    import anthropic
except ImportError:
    anthropic = None
from harness import COURAGE, THOUGHT, WEATHER, Server  # noqa: E402

ASK = [{"role": "user", "content": "Define courage."}]
WEATHER_ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {"type": "object", "properties": {"word": {"type": "string", "maxLength": 20}, "noun": {"type": "boolean"}},
          "required": ["word", "noun"], "additionalProperties": False}


def setUpModule():
    global server, client
    server = Server()
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def tearDownModule():
    server.stop()


class Chat(unittest.TestCase):
    def test_whole(self):
        reply = client.chat.completions.create(model="glossary", messages=ASK, temperature=0)
        self.assertEqual(reply.choices[0].message.content, COURAGE)
        self.assertEqual(reply.choices[0].message.reasoning_content, THOUGHT)
        self.assertEqual(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens)

    def test_stream(self):
        text, usage = "", None
        for chunk in client.chat.completions.create(model="glossary", messages=ASK, temperature=0, stream=True,
                                                    stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        self.assertEqual(text, COURAGE)
        self.assertGreater(usage.completion_tokens, 20)
        with client.chat.completions.stream(model="glossary", messages=ASK, temperature=0) as stream:
            for _ in stream:
                pass
            self.assertEqual(stream.get_final_completion().choices[0].message.content, COURAGE)

    def test_asynchronous(self):
        async def ask():
            async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as many:
                async def one():
                    text = ""
                    async for chunk in await many.chat.completions.create(model="glossary", messages=ASK, temperature=0,
                                                                          stream=True):
                        text += chunk.choices[0].delta.content or ""
                    return text
                return await asyncio.gather(*(one() for _ in range(8)))
        self.assertEqual(set(asyncio.run(ask())), {COURAGE})

    def test_tools(self):
        def ask(messages, **more):
            return client.chat.completions.create(model="glossary", messages=messages, temperature=0, tools=[WEATHER], **more)
        message = ask(WEATHER_ASK).choices[0].message
        call = message.tool_calls[0]
        self.assertEqual((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"location": "Paris"}))
        history = WEATHER_ASK + [message.model_dump(exclude_none=True),
                                 {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "condition": "sunny"}'}]
        self.assertIn("21", ask(history).choices[0].message.content)

    def test_forced_tools(self):
        strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            reply = client.chat.completions.create(model="glossary", messages=ASK, temperature=0, tools=[strict],
                                                   tool_choice=choice, max_tokens=300)
            call = reply.choices[0].message.tool_calls[0]
            self.assertEqual(call.function.name, "get_weather")
            if reply.choices[0].finish_reason == "tool_calls":
                self.assertIn("location", json.loads(call.function.arguments))

    def test_structured(self):
        for temperature in (0, 1):
            reply = client.chat.completions.create(
                model="glossary", messages=ASK, temperature=temperature, max_tokens=400, seed=3,
                response_format={"type": "json_schema", "json_schema": {"name": "entry", "schema": SCHEMA, "strict": True}})
            self.assertEqual(reply.choices[0].finish_reason, "stop")
            entry = json.loads(reply.choices[0].message.content)
            self.assertEqual(set(entry), {"word", "noun"})
        reply = client.chat.completions.create(model="glossary", messages=ASK, temperature=0, max_tokens=2000,
                                               response_format={"type": "json_object"})
        if reply.choices[0].finish_reason == "stop":
            self.assertIsInstance(json.loads(reply.choices[0].message.content), dict)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="glossary", messages=ASK, temperature=9)
        self.assertEqual((caught.exception.param, caught.exception.code), ("temperature", "decimal_above_max_value"))
        with self.assertRaises(openai.NotFoundError):
            client.chat.completions.create(model="gpt-5", messages=ASK)
        with self.assertRaises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="glossary", messages=ASK, extra_body={"surprise": 1})
        self.assertEqual(caught.exception.param, "surprise")
        with Server(env={"TESSERA_API_KEY": "k"}) as guarded:
            with self.assertRaises(openai.AuthenticationError):
                openai.OpenAI(base_url=guarded.url + "/v1", api_key="x").models.list()
            self.assertEqual(openai.OpenAI(base_url=guarded.url + "/v1", api_key="k").models.list().data[0].id, "glossary")


class Others(unittest.TestCase):
    def test_models_and_completions(self):
        self.assertEqual(client.models.list().data[0].id, "glossary")
        self.assertEqual(client.models.retrieve("glossary").id, "glossary")
        reply = client.completions.create(model="glossary", prompt="Once", max_tokens=5, logprobs=1)
        self.assertEqual(len(reply.choices[0].logprobs.tokens), 5)

    def test_responses(self):
        first = client.responses.create(model="glossary", input="Define courage.", temperature=0)
        self.assertEqual(first.output_text, COURAGE)
        self.assertEqual(first.output[0].content[0].text, THOUGHT)
        second = client.responses.create(model="glossary", input="Which word did I ask about first?", temperature=0,
                                         previous_response_id=first.id)
        self.assertIn("courage", second.output_text)
        self.assertEqual(client.responses.retrieve(first.id).output_text, COURAGE)
        with client.responses.stream(model="glossary", input="Define courage.", temperature=0) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        self.assertEqual(final.output_text, COURAGE)
        self.assertIn("response.output_text.delta", kinds)

    def test_responses_with_tools(self):
        tool = {"type": "function", "strict": True, **WEATHER["function"]}
        first = client.responses.create(model="glossary", input=WEATHER_ASK, temperature=0, tools=[tool])
        call = first.output[-1]
        self.assertEqual((call.type, json.loads(call.arguments)), ("function_call", {"location": "Paris"}))
        history = WEATHER_ASK + [item.model_dump(exclude_none=True) for item in first.output]
        history.append({"type": "function_call_output", "call_id": call.call_id,
                        "output": '{"temperature": 21, "condition": "sunny"}'})
        second = client.responses.create(model="glossary", input=history, temperature=0, tools=[tool])
        self.assertIn("21", second.output_text)

    @unittest.skipIf(anthropic is None, "the anthropic package is not installed")
    def test_anthropic(self):
        messages = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0).messages
        reply = messages.create(model="glossary", max_tokens=100, messages=ASK, extra_body={"temperature": 0})
        self.assertEqual(reply.content[-1].text, COURAGE)
        with messages.stream(model="glossary", max_tokens=100, messages=ASK, extra_body={"temperature": 0}) as stream:
            self.assertEqual("".join(stream.text_stream), COURAGE)
        with self.assertRaises(anthropic.BadRequestError):
            messages.create(model="glossary", max_tokens=100, messages=[])


if __name__ == "__main__":
    unittest.main(verbosity=1)

#!/usr/bin/env python3
"""What the routes of a running server answer, right requests and wrong ones. Standard library only.

usage: api_test.py          (TESSERA_PROGRAM: the program; default build/release/tessera)
"""
import json
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import ASK, COURAGE, ROOT, THOUGHT, WEATHER, Server  # noqa: E402

CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
WEATHER_ASK = {"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "temperature": 0,
               "tools": [WEATHER]}


def setUpModule():
    global server
    server = Server()


def tearDownModule():
    server.stop()


class Chat(unittest.TestCase):
    def test_whole(self):
        reply = server.ask(CHAT, ASK)
        self.assertEqual(reply.status, 200)
        self.assertTrue(reply.headers["x-request-id"].startswith("req_"))
        body = reply.json
        self.assertEqual(body["object"], "chat.completion")
        self.assertEqual(body["model"], "glossary")
        choice = body["choices"][0]
        self.assertEqual(choice["message"]["content"], COURAGE)
        self.assertEqual(choice["message"]["reasoning_content"], THOUGHT)
        self.assertEqual(choice["finish_reason"], "stop")
        usage = body["usage"]
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertGreater(usage["completion_tokens_details"]["reasoning_tokens"], 5)

    def test_stream_says_the_same(self):
        events = server.ask(CHAT, {**ASK, "stream": True, "stream_options": {"include_usage": True}}).events()
        self.assertEqual(events[-1][1], "[DONE]")
        chunks = [data for _, data in events[:-1]]
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
        self.assertEqual(deltas[0], {"role": "assistant", "content": ""})
        self.assertEqual("".join(d.get("content", "") for d in deltas), COURAGE)
        self.assertEqual("".join(d.get("reasoning_content", "") for d in deltas), THOUGHT)
        self.assertEqual("".join(d.get("reasoning", "") for d in deltas), THOUGHT)
        self.assertEqual(chunks[-2]["choices"][0]["finish_reason"], "stop")
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], server.ask(CHAT, ASK).json["usage"]["completion_tokens"])
        self.assertTrue(all(c["usage"] is None for c in chunks[:-1]))

    def test_no_usage_unless_asked(self):
        events = server.ask(CHAT, {**ASK, "stream": True, "max_tokens": 3}).events()
        self.assertTrue(all("usage" not in data for _, data in events[:-1]))
        self.assertEqual(events[-2][1]["choices"][0]["finish_reason"], "length")

    def test_usage_in_every_event(self):
        for path, body in [(CHAT, ASK), ("/v1/completions", {"prompt": "Once", "max_tokens": 9, "temperature": 0})]:
            events = server.ask(path, {**body, "stream": True, "stream_options": {
                "include_usage": True, "continuous_usage_stats": True}}).events()
            usages = [data["usage"] for _, data in events if data != "[DONE]"]
            counts = [usage["completion_tokens"] for usage in usages]
            self.assertEqual(counts, sorted(counts))  # one event may have all tokens, if the client is slow
            self.assertEqual(counts[-1], server.ask(path, body).json["usage"]["completion_tokens"])
            self.assertEqual({usage["prompt_tokens"] for usage in usages}, {usages[-1]["prompt_tokens"]})

    def test_several_answers(self):
        body = server.ask(CHAT, {**ASK, "n": 3, "max_tokens": 5, "temperature": 1, "seed": 7}).json
        self.assertEqual([c["index"] for c in body["choices"]], [0, 1, 2])
        self.assertEqual(body["usage"]["completion_tokens"], 15)
        again = server.ask(CHAT, {**ASK, "n": 3, "max_tokens": 5, "temperature": 1, "seed": 7}).json
        self.assertEqual([c["message"] for c in body["choices"]], [c["message"] for c in again["choices"]])
        events = server.ask(CHAT, {**ASK, "n": 3, "max_tokens": 5, "stream": True}).events()
        ends = [d["choices"][0]["index"] for _, d in events[:-1] if d["choices"][0]["finish_reason"]]
        self.assertEqual(sorted(ends), [0, 1, 2])

    def test_stop(self):
        choice = server.ask(CHAT, {**ASK, "stop": [" spirit"]}).json["choices"][0]
        self.assertEqual(choice["message"]["content"], COURAGE.split(" spirit")[0])
        self.assertEqual(choice["message"]["reasoning_content"], THOUGHT)
        self.assertEqual(choice["finish_reason"], "stop")

    def test_logprobs(self):
        choice = server.ask(CHAT, {**ASK, "logprobs": True, "top_logprobs": 2}).json["choices"][0]
        entries = choice["logprobs"]["content"]
        self.assertEqual(b"".join(bytes(e["bytes"]) for e in entries).decode(), COURAGE)
        for e in entries:
            self.assertEqual(len(e["top_logprobs"]), 2)
            self.assertLessEqual(e["logprob"], 0)
        streamed = []
        for _, data in server.ask(CHAT, {**ASK, "logprobs": True, "stream": True}).events()[:-1]:
            if data["choices"][0]["logprobs"]:
                streamed += data["choices"][0]["logprobs"]["content"]
        self.assertEqual("".join(e["token"] for e in streamed), COURAGE)
        cut = server.ask(CHAT, {**ASK, "logprobs": True, "stop": " spirit"}).json["choices"][0]
        self.assertEqual("".join(e["token"] for e in cut["logprobs"]["content"]), COURAGE.split(" spirit")[0])

    def test_effort_and_sampling_fields(self):
        for field in ({"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {"top_p": 0.5}, {"top_k": 3},
                      {"min_p": 0.1}, {"presence_penalty": 1}, {"frequency_penalty": -1}, {"logit_bias": {"5": 2}},
                      {"repetition_penalty": 1.1}, {"stop_token_ids": [8180]}, {"ignore_eos": True}, {"priority": 5},
                      {"user": "u"}, {"metadata": {"a": "b"}}, {"store": False}, {"modalities": ["text"]},
                      {"max_completion_tokens": 4}, {"seed": -1}, {"stop": None}, {"n": 1}, {"model": "glossary"}):
            self.assertEqual(server.ask(CHAT, {**ASK, "max_tokens": 4, **field}).status, 200, field)

    def test_sampling_fields_do_what_they_say(self):
        def text(**fields):
            reply = server.ask(TEXT, {"prompt": "Once upon", "max_tokens": 12, "ignore_eos": True, **fields})
            self.assertEqual(reply.status, 200, (fields, reply.body))
            return reply.json["choices"][0]["text"]
        likeliest = text(temperature=0)
        for field in ({"top_k": 1}, {"top_p": 0}, {"min_p": 1}):
            self.assertEqual(text(temperature=2, seed=1, **field), likeliest, field)
        self.assertEqual(text(temperature=2, seed=5), text(temperature=2, seed=5))
        self.assertGreater(len({text(temperature=2, seed=seed) for seed in range(8)}), 1)
        word = server.ask("/tokenize", {"prompt": " courage"}).json["tokens"]
        self.assertEqual(text(temperature=0, logit_bias={str(word[0]): 100}, max_tokens=3),
                         server.ask("/detokenize", {"tokens": word[:1] * 3}).json["prompt"])
        self.assertEqual(text(temperature=0, logit_bias={str(word[0]): 100}, stop_token_ids=word[:1]),
                         server.ask("/detokenize", {"tokens": word[:1]}).json["prompt"])
        once = text(temperature=0, logit_bias={str(word[0]): 100}, frequency_penalty=2, presence_penalty=2, max_tokens=80)
        self.assertNotEqual(once, server.ask("/detokenize", {"tokens": word[:1] * 80}).json["prompt"], "penalties add up")
        for name in ("max_completion_tokens", "max_tokens"):
            reply = server.ask(CHAT, {**ASK, name: 7, "ignore_eos": True}).json
            self.assertEqual((reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]), (7, "length"))
        for effort in ("low", "medium", "high"):
            ids = server.ask("/tokenize", {"messages": ASK["messages"], "reasoning_effort": effort}).json["tokens"]
            self.assertIn(f"Reasoning: {effort}", server.ask("/detokenize", {"tokens": ids}).json["prompt"])

    def test_text_parts(self):
        parts = [{"type": "text", "text": "Define "}, {"type": "text", "text": "courage."}]
        body = {**ASK, "messages": [{"role": "user", "content": parts}]}
        self.assertEqual(server.ask(CHAT, body).json["choices"][0]["message"]["content"], COURAGE)

    def test_special_tokens_in_text_are_text(self):
        ids = server.ask("/tokenize", {"messages": [{"role": "user", "content": "<|end|><|start|>system"}]}).json["tokens"]
        text = server.ask("/detokenize", {"tokens": ids}).json["prompt"]
        start = server.ask("/tokenize", {"prompt": "<|start|>"}).json["tokens"]
        self.assertEqual(len(start), 1)
        self.assertEqual(ids.count(start[0]), 3, text)  # system, user, and the answer's


class Tools(unittest.TestCase):
    def call(self):
        return server.ask(CHAT, WEATHER_ASK).json["choices"][0]

    def test_round_trip(self):
        choice = self.call()
        self.assertEqual(choice["finish_reason"], "tool_calls")
        message = choice["message"]
        self.assertIsNone(message["content"])
        call = message["tool_calls"][0]
        self.assertEqual(call["function"]["name"], "get_weather")
        self.assertEqual(json.loads(call["function"]["arguments"]), {"location": "Paris"})
        history = WEATHER_ASK["messages"] + [message, {"role": "tool", "tool_call_id": call["id"],
                                                       "content": '{"temperature": 21, "condition": "sunny"}'}]
        final = server.ask(CHAT, {**WEATHER_ASK, "messages": history}).json["choices"][0]
        self.assertEqual(final["finish_reason"], "stop")
        self.assertIn("21", final["message"]["content"])

    def test_stream(self):
        deltas = [d["choices"][0] for _, d in server.ask(CHAT, {**WEATHER_ASK, "stream": True}).events()[:-1]]
        calls = [c for d in deltas for c in d["delta"].get("tool_calls", [])]
        self.assertEqual(calls[0]["function"]["name"], "get_weather")
        self.assertTrue(calls[0]["id"].startswith("call_"))
        self.assertEqual({c["index"] for c in calls}, {0})
        self.assertEqual(json.loads("".join(c["function"].get("arguments", "") for c in calls)), {"location": "Paris"})
        self.assertEqual(deltas[-1]["finish_reason"], "tool_calls")

    def prompt(self, messages):
        ids = server.ask("/tokenize", {"messages": messages, "tools": [WEATHER]}).json["tokens"]
        return server.ask("/detokenize", {"tokens": ids}).json["prompt"]

    def test_reasoning_is_kept_between_calls_and_dropped_after_the_answer(self):
        calling = {"role": "assistant", "content": None, "reasoning_content": "I wonder.", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "get_weather", "arguments": '{"x":1}'}}]}
        messages = [{"role": "user", "content": "Hi"}, calling, {"role": "tool", "tool_call_id": "a", "content": "sun"},
                    {"role": "tool", "tool_call_id": "b", "content": "rain"}]
        prompt = self.prompt(messages)
        self.assertIn("<|channel|>analysis<|message|>I wonder.<|end|>", prompt)
        for call in ("{}", '{"x":1}'):
            self.assertIn(f"to=functions.get_weather <|constrain|>json<|message|>{call}<|call|>", prompt)
        self.assertIn("functions.get_weather to=assistant<|channel|>commentary<|message|>rain", prompt)
        prompt = self.prompt(messages + [{"role": "assistant", "content": "Mixed.", "reasoning_content": "Hm."},
                                         {"role": "user", "content": "Thanks"}])
        self.assertNotIn("I wonder.", prompt)
        self.assertNotIn("Hm.", prompt)
        self.assertIn("<|channel|>final<|message|>Mixed.<|end|>", prompt)

    def test_what_the_model_wrote_is_found_in_the_prefix_cache(self):
        message = self.call()["message"]
        history = WEATHER_ASK["messages"] + [message, {"role": "tool", "content": "rain",
                                                       "tool_call_id": message["tool_calls"][0]["id"]}]
        reply = server.ask(CHAT, {**WEATHER_ASK, "messages": history, "max_tokens": 1}).json
        first = server.ask(CHAT, {**WEATHER_ASK, "max_tokens": 1}).json["usage"]["prompt_tokens"]
        self.assertGreaterEqual(reply["usage"]["prompt_tokens_details"]["cached_tokens"], first // 32 * 32)

    def test_none(self):
        self.assertNotIn("tool_calls", server.ask(CHAT, {**WEATHER_ASK, "tool_choice": "none", "max_tokens": 40})
                         .json["choices"][0]["message"])


class Completions(unittest.TestCase):
    def test_prompts(self):
        ids = server.ask("/tokenize", {"prompt": "Once upon"}).json["tokens"]
        one = server.ask(TEXT, {"prompt": "Once upon", "max_tokens": 6, "temperature": 0}).json
        self.assertEqual(one["object"], "text_completion")
        self.assertEqual(one["choices"][0]["finish_reason"], "length")
        same = server.ask(TEXT, {"prompt": ids, "max_tokens": 6, "temperature": 0}).json
        self.assertEqual(one["choices"], same["choices"])
        many = server.ask(TEXT, {"prompt": ["Once upon", "Once upon"], "n": 2, "max_tokens": 6, "temperature": 0}).json
        self.assertEqual([c["index"] for c in many["choices"]], [0, 1, 2, 3])
        self.assertEqual({c["text"] for c in many["choices"]}, {one["choices"][0]["text"]})
        self.assertEqual(many["usage"]["prompt_tokens"], 2 * one["usage"]["prompt_tokens"])
        streamed = server.ask(TEXT, {"prompt": ids, "max_tokens": 6, "temperature": 0, "stream": True}).events()
        self.assertEqual("".join(d["choices"][0]["text"] for _, d in streamed[:-1]), one["choices"][0]["text"])

    def test_logprobs(self):
        logprobs = server.ask(TEXT, {"prompt": "Once", "max_tokens": 4, "logprobs": 2}).json["choices"][0]["logprobs"]
        self.assertEqual({len(logprobs[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}, {4})

    def test_tokens(self):
        text = "naïve 😀 text"
        ids = server.ask("/tokenize", {"prompt": text, "return_token_strs": True}).json
        self.assertEqual(ids["count"], len(ids["tokens"]))
        self.assertEqual(server.ask("/detokenize", {"tokens": ids["tokens"]}).json["prompt"], text)


class Responses(unittest.TestCase):
    def test_whole(self):
        body = server.ask(RESPONSES, {"input": "Define courage.", "temperature": 0}).json
        self.assertEqual((body["object"], body["status"]), ("response", "completed"))
        reasoning, message = body["output"]
        self.assertEqual(reasoning["content"], [{"type": "reasoning_text", "text": THOUGHT}])
        self.assertEqual(message["content"][0]["text"], COURAGE)
        self.assertEqual(server.ask(f"{RESPONSES}/{body['id']}").json, body)
        self.assertTrue(server.ask(f"{RESPONSES}/{body['id']}", method="DELETE").json["deleted"])
        self.assertEqual(server.ask(f"{RESPONSES}/{body['id']}").status, 404)

    def test_stream(self):
        events = server.ask(RESPONSES, {"input": "Define courage.", "temperature": 0, "stream": True}).events()
        names = [name for name, _ in events]
        self.assertEqual(names[:2], ["response.created", "response.in_progress"])
        self.assertEqual(names[-1], "response.completed")
        self.assertEqual([d["sequence_number"] for _, d in events], list(range(len(events))))
        self.assertTrue(all(name == d["type"] for name, d in events))
        text = "".join(d["delta"] for name, d in events if name == "response.output_text.delta")
        thought = "".join(d["delta"] for name, d in events if name == "response.reasoning_text.delta")
        self.assertEqual((text, thought), (COURAGE, THOUGHT))
        for kind in ("output_item", "content_part"):
            self.assertEqual(names.count(f"response.{kind}.added"), 2)
            self.assertEqual(names.count(f"response.{kind}.done"), 2)
        done = [d["item"] for name, d in events if name == "response.output_item.done"]
        self.assertEqual(done, events[-1][1]["response"]["output"])

    def test_previous_response(self):
        first = server.ask(RESPONSES, {"input": "Define courage.", "temperature": 0}).json
        second = server.ask(RESPONSES, {"input": "Which word did I ask about first?", "temperature": 0,
                                        "previous_response_id": first["id"]}).json
        self.assertEqual(second["previous_response_id"], first["id"])
        self.assertIn("courage", second["output"][-1]["content"][0]["text"])
        self.assertGreater(second["usage"]["input_tokens"], first["usage"]["input_tokens"] + 20)
        gone = server.ask(RESPONSES, {"input": "x", "previous_response_id": "resp_0"})
        self.assertEqual((gone.status, gone.json["error"]["param"]), (404, "previous_response_id"))

    def test_tools(self):
        tool = {"type": "function", **WEATHER["function"]}
        ask = {"input": "What is the weather in Paris?", "temperature": 0, "tools": [tool]}
        first = server.ask(RESPONSES, ask).json
        call = first["output"][-1]
        self.assertEqual((call["type"], call["name"]), ("function_call", "get_weather"))
        output = {"type": "function_call_output", "call_id": call["call_id"],
                  "output": '{"temperature": 21, "condition": "sunny"}'}
        by_id = server.ask(RESPONSES, {**ask, "input": [output], "previous_response_id": first["id"]}).json
        items = [{"role": "user", "content": ask["input"]}] + first["output"] + [output]
        by_items = server.ask(RESPONSES, {**ask, "input": items}).json
        self.assertIn("21", by_id["output"][-1]["content"][0]["text"])
        self.assertEqual(by_id["output"][-1]["content"], by_items["output"][-1]["content"])
        names = [name for name, _ in server.ask(RESPONSES, {**ask, "stream": True}).events()]
        self.assertIn("response.function_call_arguments.done", names)

    def test_incomplete(self):
        body = server.ask(RESPONSES, {"input": "Define courage.", "max_output_tokens": 4}).json
        self.assertEqual((body["status"], body["incomplete_details"]["reason"]), ("incomplete", "max_output_tokens"))


class Messages(unittest.TestCase):
    ASK = {"messages": [{"role": "user", "content": "Define courage."}], "max_tokens": 100, "temperature": 0}

    def test_whole_and_stream(self):
        body = server.ask(MESSAGES, self.ASK).json
        self.assertEqual([b["type"] for b in body["content"]], ["thinking", "text"])
        self.assertEqual((body["content"][1]["text"], body["stop_reason"]), (COURAGE, "end_turn"))
        events = server.ask(MESSAGES, {**self.ASK, "stream": True}).events()
        names = [name for name, _ in events]
        self.assertEqual((names[0], names[-2], names[-1]), ("message_start", "message_delta", "message_stop"))
        text = "".join(d["delta"].get("text", "") for name, d in events if name == "content_block_delta")
        self.assertEqual(text, COURAGE)
        stopped = server.ask(MESSAGES, {**self.ASK, "stop_sequences": [" spirit"]}).json
        self.assertEqual((stopped["stop_reason"], stopped["stop_sequence"]), ("stop_sequence", " spirit"))

    def test_tools(self):
        function = WEATHER["function"]
        ask = {**self.ASK, "tools": [{"name": function["name"], "description": function["description"],
                                      "input_schema": function["parameters"]}],
               "messages": [{"role": "user", "content": [{"type": "text", "text": "What is the weather in Paris?"}]}]}
        body = server.ask(MESSAGES, ask).json
        use = body["content"][-1]
        self.assertEqual((use["type"], use["input"], body["stop_reason"]), ("tool_use", {"location": "Paris"}, "tool_use"))
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": '{"temperature": 21, "condition": "sunny"}'}
        ask["messages"] += [{"role": "assistant", "content": body["content"]}, {"role": "user", "content": [result]}]
        self.assertIn("21", server.ask(MESSAGES, ask).json["content"][-1]["text"])

    def test_errors(self):
        reply = server.ask(MESSAGES, {"messages": [{"role": "user", "content": "x"}]})
        self.assertEqual(reply.status, 400)
        self.assertEqual(reply.json["error"]["type"], "invalid_request_error")
        self.assertIn("max_tokens", reply.json["error"]["message"])


class Wrong(unittest.TestCase):
    """Every wrong field is refused by name."""

    def refused(self, path, body, param, status=400):
        reply = server.ask(path, body)
        self.assertEqual(reply.status, status, (body, reply.body))
        error = reply.json["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertEqual(error["param"], param, (body, error))
        self.assertNotIn("\n", error["message"])

    def test_fields(self):
        user = [{"role": "user", "content": "x"}]
        for field, value, param in [
                ("temperature", -0.1, None), ("temperature", 2.1, None), ("temperature", "1", None), ("temperature", [], None),
                ("temperature", 1e308, None), ("top_p", 1.5, None), ("top_p", -1, None), ("n", 0, None), ("n", 129, None),
                ("n", 1.5, None), ("n", 2**63, None), ("n", -2**63, None), ("max_tokens", 0, None), ("max_tokens", -5, None),
                ("max_tokens", "5", None), ("max_completion_tokens", 2**64 - 1, None), ("seed", "a", None),
                ("stop", "", None), ("stop", ["a", 1], "stop[1]"), ("stop", ["a"] * 17, None), ("stop", {}, None),
                ("logprobs", 1, None), ("top_logprobs", 21, None), ("top_logprobs", 2, None), ("logit_bias", [], None),
                ("logit_bias", {"x": 1}, "logit_bias.x"), ("logit_bias", {"99999999": 1}, "logit_bias.99999999"),
                ("logit_bias", {"-1": 1}, "logit_bias.-1"), ("logit_bias", {"1": 101}, "logit_bias.1"),
                ("logit_bias", {"1": "a"}, "logit_bias.1"), ("presence_penalty", 3, None), ("stream", "yes", None),
                ("stream_options", {"include_usage": True}, None), ("reasoning_effort", "extreme", None),
                ("reasoning_effort", "none", None), ("tools", {}, None), ("tools", [1], "tools[0]"),
                ("tools", [{"type": "web_search"}], "tools[0].type"), ("tools", [{"type": "function"}], "tools[0].function"),
                ("tools", [{"type": "function", "function": {}}], "tools[0].function.name"),
                ("tools", [{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
                ("tools", [{"type": "function", "function": {"name": "a", "parameters": []}}], "tools[0].function.parameters"),
                ("tools", [WEATHER, WEATHER], "tools[1].function.name"), ("tool_choice", "maybe", None),
                ("tool_choice", "required", None), ("tool_choice", {"type": "function"}, "tool_choice.function"),
                ("tool_choice", {"type": "function", "function": {"name": "nope"}}, "tool_choice.function.name"),
                ("tool_choice", {"type": "custom", "function": {"name": "nope"}}, "tool_choice.type"),
                ("response_format", "json", None), ("response_format", {}, "response_format.type"),
                ("response_format", {"type": "xml"}, "response_format.type"),
                ("response_format", {"type": "json_schema"}, "response_format.json_schema"), ("audio", {}, None),
                ("functions", [], None), ("function_call", "auto", None), ("prediction", {}, None), ("store", True, None),
                ("service_tier", "flex", None), ("modalities", ["audio"], None), ("best_of", 3, None),
                ("web_search_options", {}, None), ("chat_template_kwargs", [], None), ("priority", 1000, None),
                ("stop_token_ids", [-1], None), ("stop_token_ids", ["a"], None), ("top_k", 1e30, None), ("timeout", 0, None),
                ("a_field_of_tomorrow", 1, None), ("messages", [], None), ("messages", "x", None), ("messages", [1], "messages[0]")]:
            self.refused(CHAT, {"messages": user, field: value}, param or field)
        self.refused(CHAT, {}, "messages")
        self.refused(CHAT, {"messages": user, "model": "gpt-5"}, "model", 404)

    def test_messages(self):
        for messages, param in [
                ([{}], "messages[0].role"), ([{"role": "robot", "content": "x"}], "messages[0].role"),
                ([{"role": "user"}], "messages[0].content"), ([{"role": "user", "content": 5}], "messages[0].content"),
                ([{"role": "user", "content": None}], "messages[0].content"),
                ([{"role": "user", "content": "x", "mood": "good"}], "messages[0].mood"),
                ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
                 "messages[0].content[0].image_url"),
                ([{"role": "user", "content": [{"type": "video"}]}], "messages[0].content[0].type"),
                ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
                ([{"role": "user", "content": "x", "tool_calls": []}], "messages[0].tool_calls"),
                ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
                ([{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}],
                 "messages[0].tool_calls[0].function.arguments"),
                ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
                ([{"role": "tool", "content": "x", "tool_call_id": "nope"}], "messages[0].tool_call_id"),
                ([{"role": "assistant", "content": "x", "reasoning_content": 1}], "messages[0].reasoning_content")]:
            self.refused(CHAT, {"messages": messages}, param)

    def test_other_routes(self):
        for body, param in [({}, "prompt"), ({"prompt": 1}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": ""}, "prompt"),
                            ({"prompt": [-1]}, "prompt"), ({"prompt": [10**9]}, "prompt"), ({"prompt": ["a", 1]}, "prompt[1]"),
                            ({"prompt": ["a"] * 129}, "prompt"), ({"prompt": "a", "echo": True}, "echo"),
                            ({"prompt": "a", "suffix": "b"}, "suffix"), ({"prompt": "a", "logprobs": True}, "logprobs"),
                            ({"prompt": [1] * 5000}, "prompt")]:
            self.refused(TEXT, body, param)
        for body, param in [({}, "input"), ({"input": []}, "input"), ({"input": 5}, "input"), ({"input": [5]}, "input[0]"),
                            ({"input": [{"type": "image_generation_call"}]}, "input[0].type"),
                            ({"input": [{"role": "user"}]}, "input[0].content"), ({"input": "x", "background": True}, "background"),
                            ({"input": "x", "reasoning": {"effort": "none"}}, "reasoning.effort"),
                            ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
                            ({"input": "x", "include": ["file_search_call.results"]}, "include[0]"),
                            ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
                            ({"input": "x", "truncation": "auto"}, "truncation")]:
            self.refused(RESPONSES, body, param)
        self.refused("/tokenize", {}, "prompt")
        self.refused("/detokenize", {"tokens": ["a"]}, "tokens")

    def test_bodies(self):
        for path in (CHAT, TEXT, RESPONSES, "/tokenize", "/detokenize"):
            for body in (b"", b"{", b"[]", b"null", b"NaN", b"\xff\xfe", b"[" * 100000, b"{}" * 2, b"\xef\xbb\xbf{}}", b"{'a': 1}",
                         b'{"a": 1,}', b'{"a": 1} //', b"{\x00}"):
                self.refused(path, body, None)
            for value in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"+1", b"tru", b'"\xc3("', b'"\xff"', b'"\xed\xa0\x80"',
                          b'"\\ud800"', b'"a\nb"', b'"\x00"', b"[" * 100000, b'{"a":' * 1000 + b"1" + b"}" * 1000,
                          b"[" + b"[]," * 150000 + b"[]]", b"{" + b",".join(b'"%d":0' % i for i in range(2000)) + b"}"):
                self.refused(path, b'{"x": 1, "messages": ' + value + b', "y": 1}', "messages")
        reply = server.ask(CHAT, b'{"' + b"k" * 1000000 + b'": 1, "messages": []}')
        self.assertEqual(reply.status, 400)
        self.assertLess(len(reply.body), 5000, "an error does not repeat all of a request")

    GOOD = {CHAT: {"messages": [{"role": "user", "content": "x"}]}, TEXT: {"prompt": "x"}, RESPONSES: {"input": "x"},
            MESSAGES: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}, "/tokenize": {"prompt": "x"},
            "/detokenize": {"tokens": [1]}}

    def names(self, path, name, value):
        """Refused, by the name of the field."""
        reply = server.ask(path, {**self.GOOD[path], name: value})
        self.assertEqual(reply.status, 400, (path, name, value, reply.body))
        error = reply.json["error"]
        if path == MESSAGES:
            self.assertIn(name, error["message"], (path, value))
        else:
            self.assertEqual(error["param"], name, (path, value))
        self.assertEqual(error["type"], "invalid_request_error")

    def test_every_field_of_every_route(self):
        kinds = {"boolean": True, "integer": 1, "number": 0.5, "string": "x", "array": [], "object": {}}
        seen = 0
        for path, methods in server.ask("/openapi.json").json["paths"].items():
            if "requestBody" not in methods.get("post", {}):
                continue
            schema = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
            for name, field in schema["properties"].items():
                types = field["type"] if isinstance(field["type"], list) else [field["type"]]
                wrong = [value for kind, value in kinds.items() if kind not in types and (kind, "number" in types) != ("integer", True)]
                if "integer" in types:
                    wrong += [1e308, -1e308, 2**64, 2**64 - 1, 0.5]
                if "minimum" in field:
                    wrong += [field["minimum"] - 1, field["maximum"] * 2 + 1, -2**63, -1e308, 1e308]
                if "enum" in field:
                    wrong += [v for v in ("no such value", 77, ["no such value"], not field["enum"][0])
                              if type(v) is type(field["enum"][0]) and v not in field["enum"]]
                for value in wrong + [float("nan"), float("inf"), [[[]]] if "array" not in types else {"a": float("nan")}]:
                    self.names(path, name, value)
                seen += 1
            self.names(path, "a_field_of_tomorrow", 1)
        self.assertGreater(seen, 90)

    def test_fields_that_are_not_supported(self):
        for path, fields in {
                CHAT: {"audio": {}, "prediction": {}, "web_search_options": {}, "functions": [], "function_call": "auto",
                       "store": True, "modalities": ["audio"], "verbosity": "high", "service_tier": "flex", "moderation": {}},
                TEXT: {"suffix": "x", "echo": True, "best_of": 2},
                RESPONSES: {"max_tool_calls": 1, "conversation": "c", "prompt": {}, "background": True, "truncation": "auto",
                            "service_tier": "priority", "context_management": []},
                MESSAGES: {"container": "c", "mcp_servers": [], "service_tier": "x", "context_management": {}}}.items():
            for name, value in fields.items():
                self.names(path, name, value)
        self.refused(RESPONSES, {"input": "x", "stream": True, "stream_options": {"include_obfuscation": True}},
                     "stream_options.include_obfuscation")
        self.refused(RESPONSES, {"input": "x", "stream": True, "stream_options": {"mood": 1}}, "stream_options.mood")
        self.refused(RESPONSES, {"input": "x", "stream_options": {}}, "stream_options")

    def test_tools_that_nobody_knows(self):
        tool, user = WEATHER["function"], [{"role": "user", "content": "x"}]
        self.refused(CHAT, {"messages": user, "tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "fly"}}},
                     "tool_choice.function.name")
        self.refused(RESPONSES, {"input": "x", "tools": [{"type": "function", **tool}],
                                 "tool_choice": {"type": "function", "name": "fly"}}, "tool_choice.name")
        self.refused(RESPONSES, {"input": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}]},
                                           {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                                           {"type": "function_call_output", "call_id": "b", "output": "x"}]}, "input[2].call_id")
        self.refused(RESPONSES, {"input": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}]},
                                           {"role": "assistant", "content": "a"}, {"role": "user", "content": [{"type": "video"}]}]},
                     "input[2].content[0].type")
        messages = {"messages": user, "max_tokens": 1, "tools": [{"name": "f", "input_schema": {"type": "object"}}]}
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "b", "content": "x"}]}
        for more, name in [({"tool_choice": {"type": "tool", "name": "fly"}}, "tool_choice.name"),
                           ({"messages": user + [{"role": "assistant", "content": "a"}, result]}, "messages[2].content[0].tool_use_id")]:
            reply = server.ask(MESSAGES, {**messages, **more})
            self.assertEqual(reply.status, 400, reply.body)
            self.assertIn(name, reply.json["error"]["message"])

    def test_schemas_that_recurse(self):
        node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
        good = {"type": "object", "properties": {"node": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
        endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
        deep = {}
        for _ in range(50):
            deep = {"type": "array", "items": deep}
        for schema, status in [(good, 200), ({"$ref": "#"}, 400), (endless, 400), ({"$ref": "#/$defs/a", "$defs": {
                "a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, 400), ({"allOf": [{"$ref": "#"}]}, 400),
                ({"$ref": "#/nowhere"}, 400), ({"$ref": "http://x/y"}, 400), ({"properties": {"a": {"$ref": 5}}}, 400),
                ({"type": "object", "properties": {"a": {"pattern": "(" * 5000}}}, 400),
                ({"type": "object", "properties": {"a": {"minLength": 10**18, "type": "string"}}}, 400),
                ({"type": "object", "properties": {"a": {"minItems": 10**9, "type": "array"}}}, 400)]:
            for path, body, param in [
                    (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}, "tools[0].function.parameters"),
                    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}},
                     "response_format.json_schema.schema"),
                    (CHAT, {"structured_outputs": {"json": schema}}, "structured_outputs.json"),
                    (TEXT, {"structured_outputs": {"json": schema}}, "structured_outputs.json"),
                    (RESPONSES, {"tools": [{"type": "function", "name": "f", "parameters": schema}]}, "tools[0].parameters"),
                    (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}, "text.format.schema"),
                    (MESSAGES, {"tools": [{"name": "f", "input_schema": schema}]}, "tools[0].input_schema")]:
                limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
                reply = server.ask(path, {**self.GOOD[path], **body, limit: 3})
                self.assertEqual(reply.status, status, (path, schema, reply.body))
                if status == 400:
                    error = reply.json["error"]
                    self.assertTrue((error["message"] if path == MESSAGES else error["param"]).startswith(param), error)
        self.refused(CHAT, {**ASK, "structured_outputs": {"regex": "(a"}}, "structured_outputs.regex")
        self.refused(CHAT, {**ASK, "structured_outputs": {"regex": "(a|b)*a(a|b){30}"}}, "structured_outputs.regex")  # 2^30 states
        self.refused(CHAT, {**ASK, "structured_outputs": {"grammar": "root ::= ("}}, "structured_outputs.grammar")

    def test_too_long(self):
        reply = server.ask(CHAT, {"messages": [{"role": "user", "content": "word " * 5000}]})
        self.assertEqual((reply.status, reply.json["error"]["code"]), (400, "context_length_exceeded"))

    def test_paths(self):
        self.assertEqual(server.ask("/v1/chat").status, 404)
        self.assertEqual(server.ask("/../../etc/passwd").status, 404)
        self.assertEqual(server.ask("/v1/models/%2e%2e%2fetc").status, 404)
        wrong = server.ask(CHAT)
        self.assertEqual((wrong.status, wrong.headers["Allow"]), (405, "POST"))


class Small(unittest.TestCase):
    def test_models(self):
        model = server.ask("/v1/models").json["data"][0]
        self.assertEqual((model["id"], model["max_model_len"]), ("glossary", 4096))
        self.assertEqual(server.ask("/v1/models/glossary").json, model)
        self.assertEqual(server.ask("/v1/models/other").status, 404)

    def test_health_and_metrics(self):
        self.assertEqual(server.ask("/health").json, {"status": "ok"})
        server.ask("/v1/chat/completions", {**ASK, "max_completion_tokens": 1})
        text = server.ask("/metrics").body.decode()
        for name in ("requests_running", "requests_waiting", "time_to_first_token_seconds_bucket",
                     "inter_token_seconds_bucket", "request_seconds_bucket", "prompt_tokens_total",
                     "generation_tokens_total", "cache_usage_ratio", "prefix_cache_hits_total", "preemptions_total",
                     'kernel_info{op="linear",kernel="linear_'):
            self.assertIn("\ntessera_" + name, text)
        samples = {}  # name: the labels it comes with
        for line in text.splitlines():
            if not line.startswith("#"):
                samples.setdefault(re.match(r"\w+", line)[0], set()).update(re.findall(r'(\w+)="', line))
        folder = os.path.join(ROOT, "docs", "serving")
        with open(os.path.join(folder, "grafana.json")) as f:
            queries = [(target["expr"], target["legendFormat"]) for panel in json.load(f)["panels"]
                       for target in panel["targets"]]
        with open(os.path.join(folder, "alerts.yml")) as f:
            queries += [(line.split("expr:")[1], "") for line in f if "expr:" in line]
        self.assertGreater(len(queries), 25)
        for query, legend in queries:
            names = re.findall(r"tessera_\w+", query)
            self.assertTrue(names, query)
            labels = set.union(set(), *(re.split(r"\W+", found) for found in re.findall(r"by \(([^)]*)\)", query)))
            for name in names:
                self.assertIn(name, samples, query)
                self.assertLessEqual(labels - {"instance", "job"}, samples[name], query)  # those Prometheus adds
            self.assertLessEqual(set(re.findall(r"{{(\w+)}}", legend)), labels, query)
        with open(os.path.join(ROOT, "docs", "serving.md")) as f:
            table = f.read().split("## Metrics")[1].split("## Load")[0]
        self.assertEqual(samples["tessera_kernel_info"], {"op", "kernel", "device", "rank"})
        for name in re.findall(r"`(tessera_\w+)`", table):
            self.assertTrue(name in samples or name + "_bucket" in samples, name)

    def test_page(self):
        page = server.ask("/")
        self.assertIn(b"<!doctype html>", page.body)
        self.assertIn("script-src", page.headers["Content-Security-Policy"])

    def test_openapi_is_the_committed_one(self):
        description = server.ask("/openapi.json").json
        with open(os.path.join(ROOT, "docs", "openapi.json")) as f:
            self.assertEqual(description, json.load(f), "run: curl localhost:8000/openapi.json > docs/openapi.json")


if __name__ == "__main__":
    unittest.main(verbosity=1)

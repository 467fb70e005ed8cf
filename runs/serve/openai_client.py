"""The official client against a running server: everything that its users call, whole and streamed."""

import sys

from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

PROMPT = "Once upon a time there was a"
MESSAGES = [{"role": "system", "content": "A tale."}, {"role": "user", "content": "Once upon a time"}]


def main(url, key):
    client = OpenAI(base_url=url, api_key=key, max_retries=0)
    models = client.models.list().data
    name = models[0].id
    assert client.models.retrieve(name).id == name

    whole = client.completions.create(model=name, prompt=PROMPT, max_tokens=24, temperature=0, logprobs=2, echo=True)
    told = whole.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)
    assert whole.choices[0].text.startswith(PROMPT) and told.token_logprobs[0] is None
    pieces = client.completions.create(
        model=name, prompt=PROMPT, max_tokens=24, temperature=0, echo=True, stream=True,
        stream_options={"include_usage": True},
    )
    pieces = list(pieces)
    assert "".join(c.text for piece in pieces for c in piece.choices) == whole.choices[0].text
    assert pieces[-1].usage.completion_tokens == 24 and not pieces[-1].choices
    assert pieces[-1].usage.model_extra["kv"]["kept_entries"] > 0

    chat = client.chat.completions.create(
        model=name, messages=MESSAGES, max_completion_tokens=24, temperature=0, logprobs=True, top_logprobs=2, seed=1,
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
    )
    assert chat.choices[0].finish_reason in ("stop", "length")
    assert len(chat.choices[0].logprobs.content) == chat.usage.completion_tokens
    pieces = client.chat.completions.create(
        model=name, messages=MESSAGES, max_completion_tokens=24, temperature=0, seed=1, stream=True,
    )
    text = "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
    assert text == chat.choices[0].message.content
    several = client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=8, n=3, seed=5)
    assert [choice.index for choice in several.choices] == [0, 1, 2]

    for wrong, call in [
        (BadRequestError, lambda: client.completions.create(model=name, prompt="a", temperature=-1)),
        (BadRequestError, lambda: client.completions.create(model=name, prompt="word " * 9000)),
        (NotFoundError, lambda: client.completions.create(model="no such model", prompt="a")),
    ]:
        try:
            call()
        except wrong as error:
            assert error.body["message"]
        else:
            raise AssertionError(f"{wrong.__name__} did not come")
    if key != "none":
        try:
            OpenAI(base_url=url, api_key=key + "x", max_retries=0).models.list()
        except AuthenticationError:
            pass
        else:
            raise AssertionError("a wrong key opened the server")
    print("openai client: all calls as they should be")


if __name__ == "__main__":
    main(*sys.argv[1:])

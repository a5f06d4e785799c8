"""What an endpoint is sent: the shape of the messages, and sound that is encoded while it arrives."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shared.audio import INPUT_RATE, to_wav
from shared.wire import Open
from workers.llm.engines.openai.chat import Chat, Sound, SoundWriter, sound
from workers.llm.history import Exchange

PCM = bytes(range(200))


def spoken(pcm: bytes = PCM) -> dict[str, Any]:
    data = base64.b64encode(to_wav(pcm, INPUT_RATE)).decode()
    return {"type": "input_audio", "input_audio": {"format": "wav", "data": data}}


def written(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def asked(chat: Chat, begun: str = "", **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(chat.body("model", 100, begun, **more))
    return body


def messages(chat: Chat, **more: Any) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in asked(chat, **more)["messages"]]


@given(st.lists(st.binary(max_size=40).map(lambda piece: piece[: len(piece) & ~1])))
def test_sound_that_comes_in_pieces_is_the_wav_file_of_the_whole(pieces: list[bytes]) -> None:
    writer = SoundWriter()
    for piece in pieces:
        writer.feed(piece)
    pcm = b"".join(pieces)
    assert base64.b64decode(b"".join(writer.finish().base64), validate=True) == to_wav(pcm, INPUT_RATE)
    assert writer.empty == (not pcm)


def test_what_was_said_comes_first_as_it_was_said() -> None:
    chat = Chat(Open())
    chat.add(Exchange(1, PCM, None, "Hello."))
    chat.add(Exchange(2, b"", "And now?", "Yes."))
    chat.say(sound(PCM[:100]))
    assert messages(chat) == [
        ("user", [spoken()]),
        ("assistant", "Hello."),
        ("user", "And now?"),
        ("assistant", "Yes."),
        ("user", [spoken(PCM[:100])]),
    ]


def test_what_got_no_reply_is_a_part_of_what_was_said_next() -> None:
    chat = Chat(Open(text="b"))
    chat.add(Exchange(1, PCM, None, ""))
    chat.add(Exchange(2, b"", "a", ""))
    chat.add(Exchange(3, PCM, None, "Yes."))
    chat.add(Exchange(4, PCM, None, ""))
    chat.say("b")
    assert messages(chat) == [
        ("user", [spoken(), written("a"), spoken()]),
        ("assistant", "Yes."),
        ("user", [spoken(), written("b")]),
    ]


def test_users_and_assistants_alternate_even_where_nothing_was_said() -> None:
    chat = Chat(Open())
    chat.add(Exchange(1, b"", None, "I did not catch that."))
    assert messages(chat) == [("user", ""), ("assistant", "I did not catch that."), ("user", "")]


def test_the_settings_of_the_turn_are_those_of_the_request() -> None:
    chat = Chat(Open(temperature=0.5, top_p=0.75, max_reply_tokens=7, seed=3))
    chat.say("hi")
    body = asked(chat)
    assert body.pop("messages") == [{"role": "user", "content": "hi"}]
    assert body == {
        "model": "model", "stream": True, "temperature": 0.5, "top_p": 0.75, "max_tokens": 100, "seed": 3,
    }  # fmt: skip


def test_without_a_seed_the_endpoint_chooses() -> None:
    assert "seed" not in asked(Chat(Open()))


def test_the_prompt_stands_before_everything() -> None:
    chat = Chat(Open(prompt="Be brief."))
    chat.add(Exchange(1, b"", "a", "b"))
    chat.say(sound(PCM))
    assert messages(chat)[0] == ("system", "Be brief.")
    assert messages(chat)[-1] == ("user", [spoken()])


def test_where_no_system_message_may_be_the_prompt_goes_with_the_users_words() -> None:
    said = Chat(Open(prompt="Be brief."))
    said.add(Exchange(1, PCM, None, ""))
    said.say(sound(PCM))
    assert messages(said, system=False) == [("user", [spoken(), spoken(), written("Be brief.")])]
    typed = Chat(Open(prompt="Be brief.", text="hi"))
    typed.add(Exchange(1, PCM, None, ""))
    typed.say("hi")
    assert messages(typed, system=False) == [("user", [spoken(), written("Be brief."), written("hi")])]


def test_an_answer_begun_is_the_last_message_and_to_be_gone_on_with() -> None:
    chat = Chat(Open())
    chat.say(sound(PCM))
    body = asked(chat, begun="Yes, I")
    assert body["messages"][-1] == {"role": "assistant", "content": "Yes, I"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in asked(chat)


def test_every_text_is_known_and_whether_sound_stands_beside_a_prompt() -> None:
    chat = Chat(Open(prompt="p"))
    chat.add(Exchange(1, b"", "a", "b"))
    assert not chat.sound_and_prompt
    chat.say(Sound(()))
    assert chat.sound_and_prompt
    assert sorted(chat.texts) == ["a", "b", "p"]


def test_texts_of_every_script_arrive_as_they_are() -> None:
    chat = Chat(Open(prompt='"\\\n\0', text="é 漢 🙂"))
    chat.say("é 漢 🙂")
    assert messages(chat) == [("system", '"\\\n\0'), ("user", "é 漢 🙂")]

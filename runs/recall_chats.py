"""Chats about things that stand somewhere in a long text: training texts that teach what will be asked for.

    python3 runs/recall_chats.py TEXT COUNT SEED       JSON lines of messages, as `dropcap train` reads them

TEXT is a file of documents (may be packed with xz). Into each passage of it some sentences are put, and then two or three of them are asked about,
one after the other. None of them is worded as those of `dropcap eval`'s recall tasks are. Standard library only; equal arguments give equal files.
"""

import json
import lzma
import random
import sys

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
NAMES = ["Amelia", "Boris", "Cecilia", "Dmitri", "Esther", "Felix", "Gloria", "Hugo", "Ingrid", "Jonas", "Kate", "Louis", "Mabel", "Noah",
         "Ophelia", "Philip", "Quentin", "Rosa", "Stephen", "Tilda", "Ursula", "Vincent", "Walter", "Xenia", "Yusuf", "Zoe"]
TOWNS = ["Bergen", "Cadiz", "Delft", "Exeter", "Florence", "Ghent", "Hamburg", "Izmir", "Jaipur", "Kyoto", "Lyon", "Milan", "Naples", "Odessa",
         "Porto", "Quito", "Riga", "Seville", "Tallinn", "Utrecht", "Verona", "York", "Zurich"]
GOODS = ["piano", "telescope", "sewing machine", "rowing boat", "clock", "blue vase", "coat", "map", "chessboard", "painting", "typewriter",
         "rug", "desk", "silver spoon", "microscope", "suitcase", "drum", "globe", "barometer", "rocking chair"]
TRADES = ["a baker", "a surgeon", "a pilot", "a gardener", "a lawyer", "a carpenter", "a nurse", "a tailor", "a sailor", "a printer", "a plumber",
          "a violinist"]
# What is told, asked and answered.
TOLD = [
    ("The {good} was sold for {number} crowns.", "How many crowns was the {good} sold for?", "The {good} was sold for {number} crowns."),
    ("{name} moved to {town} last spring.", "Which town did {name} move to?", "{name} moved to {town}."),
    ("{name} works as {trade}.", "What does {name} work as?", "{name} works as {trade}."),
    ("The train to {town} leaves from platform {small}.", "Which platform does the train to {town} leave from?",
     "It leaves from platform {small}."),
    ("{name}'s room has the number {number}.", "Which number does {name}'s room have?", "{name}'s room has the number {number}."),
    ("The code {number} opens the box with the {good}.", "Which code opens the box with the {good}?", "The code is {number}."),
    ("Remember that {name} has hidden the {good} in {town}.", "Where has {name} hidden the {good}?", "{name} has hidden it in {town}."),
    ("The telephone number of the office in {town} is {long}.", "What is the telephone number of the office in {town}?", "It is {long}."),
]


def sentences(path):
    with (lzma.open if path.endswith(".xz") else open)(path, "rt") as file:
        text = file.read().replace("<|endoftext|>", " ")
    return text.replace("\n", " ").split(". ")


def facts(draw, count):
    """Different ones: no two have a name, a town or a thing in common."""
    names, towns, goods = draw.sample(NAMES, count), draw.sample(TOWNS, count), draw.sample(GOODS, count)
    for name, town, good in zip(names, towns, goods):
        values = {"name": name, "town": town, "good": good, "trade": draw.choice(TRADES), "number": draw.randint(100, 9999),
                  "small": draw.randint(1, 40), "long": draw.randint(100_000, 999_999)}
        yield [part.format(**values) for part in draw.choice(TOLD)]


def chat(draw, hay):
    told = list(facts(draw, draw.randint(2, 6)))
    start, length, passage = draw.randrange(len(hay)), draw.randint(600, 3000), []
    while sum(map(len, passage)) < length:
        passage.append(" ".join(hay[start % len(hay)].split()) + ".")
        start += 1
    for fact, _, _ in told:
        passage.insert(draw.randint(0, len(passage)), fact)
    text, asked = " ".join(passage), draw.sample(told, min(len(told), draw.randint(2, 3)))
    messages = [{"role": "system", "content": SYSTEM}]
    for index, (_, question, answer) in enumerate(asked):
        messages.append({"role": "user", "content": f"{text}\n\n{question}" if index == 0 else question})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


def main(arguments):
    if len(arguments) != 3:
        sys.exit(__doc__)
    hay, draw = sentences(arguments[0]), random.Random(int(arguments[2]))
    for _ in range(int(arguments[1])):
        print(json.dumps(chat(draw, hay)))


main(sys.argv[1:])

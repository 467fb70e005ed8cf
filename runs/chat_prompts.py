"""Prompts of chats for a model whose template is ChatML, and the chats that a model has answered them with.

    python3 runs/chat_prompts.py prompts COUNT SEED            JSON lines for `dropcap generate --prompt-file`
    python3 runs/chat_prompts.py chats PROMPTS ANSWERS CHATS   JSON lines of messages, from `generate --json`

What the model itself answers keeps its manners when it is trained on books: they become training texts beside them.
Standard library only; equal arguments give equal files.
"""

import json
import random
import sys

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
ASKED = [
    "Explain {} to a ten-year-old.", "What should I know about {} before I begin?", "Give me five facts about {}.",
    "Write a short story about {}.", "Write a poem about {}.", "What are the advantages and disadvantages of {}?",
    "How has {} changed over the last hundred years?", "Make a list of questions to ask an expert on {}.",
    "Summarise the history of {} in three paragraphs.", "Why do people care about {}?", "Compare {} with {}.",
    "Write an email to a friend who wants to learn about {}.", "What is a common mistake when dealing with {}?",
    "Plan a week of learning about {}.", "Describe {} without using the word itself.", "Is {} more useful than {}? Explain.",
    "Draft an introduction for an essay about {}.", "What would a world without {} look like?", "Teach me {} step by step.",
    "Give an example of {} from daily life.", "Write a dialogue between two people who disagree about {}.",
    "What do {} and {} have in common?", "Translate the idea of {} into a simple metaphor.", "Who should avoid {}, and why?",
    "Write a Python function that has something to do with {}.", "What are three myths about {}?", "Rewrite this politely: I am tired of {}.",
    "Suggest a title and an outline for a talk about {}.", "How can I save money on {}?", "What is the science behind {}?",
]
SUBJECTS = [
    "photosynthesis", "the stock market", "bread baking", "chess", "the French Revolution", "volcanoes", "machine learning",
    "public speaking", "gardening", "black holes", "the human heart", "bicycles", "recycling", "jazz", "the Roman Empire",
    "vaccines", "electric cars", "sleep", "poetry", "prime numbers", "coffee", "the water cycle", "dinosaurs", "democracy",
    "the internet", "yoga", "origami", "earthquakes", "the moon landing", "saving money", "bees", "time management",
    "cooking rice", "the Great Wall of China", "gravity", "violins", "job interviews", "whales", "solar power", "fractions",
    "friendship", "the periodic table", "running a marathon", "libraries", "glaciers", "learning a language", "dogs",
    "computer programming", "renting a flat", "tea", "the immune system", "trains", "mythology", "weather forecasts",
    "painting", "tax returns", "swimming", "maps", "rainforests", "a healthy breakfast", "folk songs", "mountains",
    "probability", "housework", "museums", "the Silk Road", "algebra", "remote work", "stars", "pottery",
]


def prompts(count, seed):
    draw = random.Random(seed)
    for number in range(count):
        asked = draw.choice(ASKED)
        question = asked.format(*draw.sample(SUBJECTS, asked.count("{}")))
        text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        print(json.dumps({"prompt": text, "seed": seed * 1_000_000 + number, "max_tokens": 320}))


def chats(asked, answered, to):
    with open(asked) as lines:
        starts = [json.loads(line)["prompt"] for line in lines]
    questions = [start.split("<|im_start|>user\n")[1].split("<|im_end|>")[0] for start in starts]
    with open(answered) as lines, open(to, "w") as out:
        for question, line in zip(questions, lines):
            answer = json.loads(line)["text"].replace("<|im_end|>", "").strip()
            if answer:
                messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question},
                            {"role": "assistant", "content": answer}]
                out.write(json.dumps({"messages": messages}) + "\n")


def main(arguments):
    if len(arguments) == 3 and arguments[0] == "prompts":
        prompts(int(arguments[1]), int(arguments[2]))
    elif len(arguments) == 4 and arguments[0] == "chats":
        chats(*arguments[1:])
    else:
        sys.exit(__doc__)


main(sys.argv[1:])

"""stories260k, a small Llama trained on TinyStories, and the stories it is tested on."""

MODEL = "models/stories260k"


def first_stories(context, count):
    text = context.shared("tinystories-sample/tinystories_2MiB.txt").read_text()
    return [story.strip() for story in text.split("<|endoftext|>")[:count]]

"""The studio on a Space, or in any container: it listens to whoever can reach it."""

import os

from sfumato.studio import studio

if __name__ == "__main__":
    # the name that visitors use, and the site that shows a Space in a frame
    names = [os.environ["SPACE_HOST"]] if "SPACE_HOST" in os.environ else []
    studio(host="0.0.0.0", port=7860, names=names, framed_by=["https://huggingface.co"])

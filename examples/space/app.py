"""The studio on a Space, or in any container: it listens to whoever can reach it."""

from sfumato.studio import studio

if __name__ == "__main__":
    studio(host="0.0.0.0", port=7860)

"""Model folders to the Hugging Face Hub, where others name them hf://OWNER/NAME."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sfumato.checkpoints.card import card
from sfumato.checkpoints.hub import FILES, NEEDED, REPO, SEEN, Address, address, answered, fetched
from sfumato.checkpoints.model_folder import ModelFolder, open_model, own_file, resolve
from sfumato.core.arguments import checked
from sfumato.core.devices import with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.data.folders import regular
from sfumato.methods.registry import name_of


@checked
@with_torch_defaults
def push(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    license: str | None = None,
    revision: str | None = None,
) -> str:
    """Uploads a model to the Hugging Face Hub: its description, its weights, and its card with a header.

    The repository is made if there is none.

    Args:
        run: a model folder, such as a run; what else it holds stays here.
        repo: OWNER/NAME on the Hub.
        private: make a repository that only its owner sees.
        license: the license that others may use it under, such as apache-2.0 or cc-by-4.0.
        revision: the branch to upload to, which is made if there is none; main if not given.

    Returns:
        hf://OWNER/NAME@COMMIT.

    Raises:
        UserError: it is no whole model, the name is none, the repository is public and should be private,
            nobody is logged in, or the Hub refuses.
    """
    path, domain = resolve(run)
    if domain is not None:
        whole = str(run).removesuffix(f":{domain}")
        raise UserError(f"{run} is one domain: a model is uploaded with all, as in {whole}")
    if not re.fullmatch(REPO, repo):
        raise UserError(f"{repo} is no name on the Hub: expected OWNER/NAME, such as me/digits")
    model = open_model(path, None)  # whole, or nothing is sent

    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    header = _with_header(model, repo, license)
    sent = (*NEEDED, SEEN) if (path / SEEN).exists() else NEEDED
    files = [CommitOperationAdd(name, str(own_file(path, name))) for name in sent]
    files.append(CommitOperationAdd(FILES[2], header.encode()))
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{constants.ENDPOINT} is not asked: HF_HUB_OFFLINE is set")
    if get_token() is None:
        raise UserError(f"nobody is logged in to {constants.ENDPOINT}: type hf auth login")
    api = HfApi(library_name="sfumato")
    with answered(Address(repo, revision)):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UserError(f"{repo} is public already: name another, or change its settings on the Hub")
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        try:
            done = api.create_commit(repo, files, commit_message="A sfumato model", revision=revision)
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            # the Hub looks at the header before anything is sent
            raise UserError(f"the Hub refuses the header of the card: {error}") from None
    fetched.cache_clear()
    return str(Address(repo, done.oid))


def _with_header(model: ModelFolder, repo: str, license: str | None) -> str:
    """The card of a model folder, with what the Hub asks for at its top, and the name it has there.

    Raises:
        UserError: it has a header that cannot be read.
    """
    from huggingface_hub import EvalResult, ModelCard

    text, file = card(model.part, model.info), model.folder / FILES[2]
    if file.exists():
        text = regular(own_file(model.folder, file.name)).read_text(encoding="utf-8")
    text = re.sub(r"(--(?:model|source|target) )FOLDER\b", rf"\1hf://{repo}", text)
    try:
        whole = ModelCard(text if text.startswith("---\n") else f"---\n\n---\n{text}")
    except Exception as error:  # of YAML, or of what huggingface_hub checks
        raise UserError(f"the header of {file} cannot be read: {str(error).partition(chr(10))[0]}") from None
    data: Any = whole.data
    data.library_name, data.pipeline_tag = "sfumato", "image-to-image"
    data.tags = list(dict.fromkeys([*(data.tags or ()), "sfumato", name_of(model.part)]))
    data.license = license or data.license
    start = model.info.get("start")
    if isinstance(start, dict) and (began := address(str(start.get("model")))):
        data.base_model = began.repo
    loss = model.info.get("held_out_loss")
    if isinstance(loss, float):
        data.model_name = repo.partition("/")[2]
        data.eval_results = [EvalResult(
            task_type="image-to-image", dataset_type="held-out", dataset_name="held-out pictures",
            metric_type="loss", metric_value=loss,
        )]  # fmt: skip
    return str(whole)

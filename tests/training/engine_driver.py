"""One of several processes that torchrun starts; used by test_distributed.py.

    torchrun --nproc-per-node 2 engine_driver.py train RECIPE [--resume]     as the command line would
    torchrun --nproc-per-node 2 engine_driver.py train RECIPE --stop-after 7 killed before the step after the seventh
    torchrun --nproc-per-node 2 engine_driver.py train-fsdp2 RECIPE          with accelerate's FSDP2 path opened on CPU
    torchrun --nproc-per-node 2 engine_driver.py fully-shard FOLDER          torch's fully_shard on the model directly

accelerate takes its FSDP2 path for GPUs only; "train-fsdp2" lets it through, so that everything behind that one switch
is what runs on GPUs, with gloo in place of NCCL.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import distributed


def open_fsdp2_on_cpu() -> None:
    """Make accelerate see FSDP2 where it sees several CPU processes, and find_process_group not refuse it."""
    from accelerate import state
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    from slicesight.training import distributed as groups
    from slicesight.training import run as stages

    prepare = state.AcceleratorState.__init__

    def prepare_sharded(self, *args, **kwargs):
        prepare(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
            )
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = prepare_sharded
    rank, number = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    stages.find_process_group = lambda: groups.ProcessGroup(kind="fsdp2", rank=rank, num_processes=number)


def train(path: str, *, resume: bool) -> None:
    from slicesight.errors import InputError
    from slicesight.training.recipe import read_recipe
    from slicesight.training.run import run_recipe

    try:
        run_recipe(read_recipe(path), resume=resume)
    except InputError as error:
        sys.stderr.write(f"slicesight: {error}\n")
        sys.exit(2)


def kill_before_step(number: int) -> None:
    """SIGKILL to this process when so many steps are done."""
    from slicesight.training.trainer import StageTrainer

    compute, calls = StageTrainer.compute_loss, 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > number:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(*args, **kwargs)

    StageTrainer.compute_loss = counted


def shard_directly(folder: Path) -> None:
    """Loss and gradients of the sharded model on half the prompts each, then its whole weights as safetensors."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
    from slicesight.training.checkpointing import write_weights
    from slicesight.training.distributed import ProcessGroup, check_process_group

    distributed.init_process_group("gloo")
    rank, number = distributed.get_rank(), distributed.get_world_size()
    model = Med2E3ForConditionalGeneration.from_pretrained(folder / "start", dtype=torch.float32).train()
    batch = torch.load(folder / "batch.pt", weights_only=True)
    for layer in model.language_model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    check_process_group(ProcessGroup(kind="fsdp2", rank=rank, num_processes=number), model)
    prompts = len(batch["input_ids"])
    mine = slice(rank * prompts // number, (rank + 1) * prompts // number)
    share = {name: value if name == "volumes" else value[mine] for name, value in batch.items()}
    items = (batch["labels"][:, 1:] != -100).sum()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(**share, num_items_in_batch=items).loss * number  # gradients are averaged over processes
    loss.backward()
    total = loss.detach() / number
    distributed.all_reduce(total)
    optimizer.step()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    gathered = get_model_state_dict(model, options=options)
    if rank == 0:
        write_weights(model, folder / "sharded", gathered=gathered)
        (folder / "loss.txt").write_text(repr(total.item()))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, place, *rest = sys.argv[1:]
    if what == "fully-shard":
        shard_directly(Path(place))
    else:
        if what == "train-fsdp2":
            open_fsdp2_on_cpu()
        if "--stop-after" in rest:
            kill_before_step(int(rest[-1]))
        train(place, resume="--resume" in rest)

"""The demo is a server on this machine's free ports."""

from cluster.options.demo_options import DemoOptions
from cluster.options.model_options import ModelOptions
from cluster.serve.demo import server_options
from parallel.decoding.types import DecodeMode


def test_the_demo_serves_its_model_and_page_on_this_machine_alone() -> None:
    served = server_options(DemoOptions())
    assert served.models.target == "smollm2-135m"
    assert (served.listen, served.http) == ("127.0.0.1:0", "127.0.0.1:0")
    chosen = DemoOptions(
        models=ModelOptions(target="other"), mode=DecodeMode.PEARL, http="127.0.0.1:8000"
    )
    served = server_options(chosen)
    assert (served.models.target, served.mode) == ("other", DecodeMode.PEARL)
    assert served.http == "127.0.0.1:8000"

import click


@click.command()
def analyze() -> None: ...

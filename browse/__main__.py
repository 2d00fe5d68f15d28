"""`medgpt browse DATA`: a page on this machine that shows builds, samples, proof and reports. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medgpt.arguments import command_parser
from medgpt.errors import DONE, UserError, run


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Serves until Ctrl-C; 2 where it cannot, or where what would be exported may not be passed on."""
    parser = command_parser(
        "browse",
        "Show builds, samples, proof and reports below DATA in a browser on this machine. The page listens on "
        "127.0.0.1 alone, its address holds a token, and nothing is written. Credentialed pictures and texts are left "
        "out until a link asks for them. Ends with Ctrl-C.",
        "examples:\n  medgpt browse data\n  medgpt browse data --export page --samples 100 --local-only",
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds, or one build")
    add("--port", type=int, default=0, help="default 0: a free one")
    add("--seconds", type=float, default=30, metavar="N", help="a query is stopped after so long (default 30)")
    add("--export", type=Path, metavar="FOLDER", help="write FOLDER/index.html instead: builds and some samples")
    add("--samples", type=int, default=100, metavar="N", help="of --export: how many, shared by the builds")
    add("--build", action="append", metavar="NAME", help="of --export: only this build (may be repeated)")
    add("--local-only", action="store_true", help="of --export: credentialed builds, too; the file is yours (0600)")
    options = parser.parse_args(arguments)
    from browse.catalogue import Catalogue
    from browse.pages import Pages

    pages = Pages(Catalogue(options.data, options.seconds))
    if options.export:
        from browse.static import export

        print(export(pages, options.export, options.samples, options.build or [], options.local_only))
        return DONE
    from browse.server import Server

    try:
        server = Server(pages, options.port)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {options.port}: cannot listen there ({error})") from None
    with server:
        pages.catalogue.count_beside()
        print(f"open {server.url}\nends with Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return DONE
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())

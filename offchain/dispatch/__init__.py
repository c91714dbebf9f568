"""Dispatch: sends whole units of work to nodes, watches each attempt, and goes on elsewhere when one fails.

Start reading at `dispatcher.Dispatcher` (asyncio). `keeper.market.dispatcher` wraps it for Celery tasks; the decisions alone
are in `scheduler.router`; `fleet_store.FleetStore` shares the live nodes between processes.
"""

"""The dispatch core: places whole units of work on nodes, watches them, rescues them, and accounts for every attempt.

Doors: `client.BlockingDispatcher` (Celery tasks), `engine.Engine` (asyncio fronts), `router.Router` (decisions alone, for
a simulator), `heartbeat.HeartbeatVerifier` and `fleet_store.FleetStore` (whoever takes heartbeats).
"""

"""The lies: each is told to a proxy with a nonce by which its answer is known."""

from truth import CDS, EDS, LDS, PREFIX, RDS, cluster, endpoints, listener, packed, routes

WRONG = 999_999
HUGE = 40 << 20
UNKNOWN = PREFIX + "envoy.config.unknown.v3.Nothing"


async def a_name_twice_among_routes(liar, nonce):
    await liar.send(liar.response(RDS, [routes("routes", WRONG), routes("routes", WRONG)], nonce))


async def a_name_twice_among_clusters(liar, nonce):
    await liar.send(liar.response(CDS, [cluster("up"), cluster("twice"), cluster("twice")], nonce))


async def a_name_twice_among_listeners(liar, nonce):
    await liar.send(liar.response(LDS, [listener("main"), listener("twice"), listener("twice")], nonce))


async def a_name_twice_among_endpoints(liar, nonce):
    truth = liar.truth.resources(EDS)
    await liar.send(liar.response(EDS, truth + truth, nonce))


async def resources_of_another_type(liar, nonce):
    await liar.send(liar.response(RDS, [cluster("up")], nonce))


async def resources_of_an_unknown_type(liar, nonce):
    await liar.send(liar.response(CDS, [packed(UNKNOWN, b"")], nonce))


async def a_response_of_an_unknown_type(liar, nonce):
    await liar.send(liar.response(UNKNOWN, [], nonce))


async def a_response_without_a_type(liar, nonce):
    await liar.send(liar.response("", [routes("routes", WRONG)], nonce))


async def a_resource_that_is_cut_off(liar, nonce):
    whole = routes("routes", WRONG).SerializeToString()
    await liar.send(liar.response(RDS, [packed(RDS, whole[: len(whole) // 2])], nonce))


async def a_resource_that_is_noise(liar, nonce):
    await liar.send(liar.response(CDS, [packed(CDS, bytes(range(256)))], nonce))


async def routes_that_nobody_asked_for(liar, nonce):
    await liar.send(liar.response(RDS, [routes("others", WRONG)], nonce))


async def no_routes_at_all(liar, nonce):
    await liar.send(liar.response(RDS, [], nonce))


async def routes_without_a_name(liar, nonce):
    await liar.send(liar.response(RDS, [routes("", WRONG)], nonce))


async def routes_that_break_a_constraint(liar, nonce):
    broken = routes("routes", WRONG)
    broken.virtual_hosts[0].domains.append("*")
    await liar.send(liar.response(RDS, [broken], nonce))


async def a_cluster_without_a_name(liar, nonce):
    await liar.send(liar.response(CDS, [cluster("up"), cluster("")], nonce))


async def a_listener_without_an_address(liar, nonce):
    broken = listener("broken")
    broken.ClearField("address")
    await liar.send(liar.response(LDS, [listener("main"), broken], nonce))


async def a_listener_with_an_unknown_filter(liar, nonce):
    broken = listener("broken")
    broken.filter_chains[0].filters[0].typed_config.type_url = UNKNOWN
    await liar.send(liar.response(LDS, [listener("main"), broken], nonce))


async def endpoints_without_an_address(liar, nonce):
    broken = endpoints("up", liar.truth.upstream)
    broken.endpoints[0].lb_endpoints[0].endpoint.ClearField("address")
    await liar.send(liar.response(EDS, [broken], nonce))


async def endpoints_of_a_cluster_that_is_not_there(liar, nonce):
    await liar.send(liar.response(EDS, liar.truth.resources(EDS) + [endpoints("nowhere", 9)], nonce))


async def an_old_nonce(liar, nonce):
    del nonce
    await liar.send(liar.response(RDS, liar.truth.resources(RDS), "nonce-1"))


async def no_nonce(liar, nonce):
    del nonce
    await liar.send(liar.response(RDS, liar.truth.resources(RDS), ""))


async def the_same_response_three_times(liar, nonce):
    response = liar.response(RDS, liar.truth.resources(RDS), nonce)
    for _ in range(3):
        await liar.send(response)


async def another_truth_with_the_same_version(liar, nonce):
    await liar.send(liar.response(RDS, liar.truth.resources(RDS), nonce, version="same"))
    liar.truth.mark += 1
    await liar.send(liar.response(RDS, liar.truth.resources(RDS), nonce, version="same"))


async def a_huge_name(liar, nonce):
    await liar.send(liar.response(RDS, liar.truth.resources(RDS) + [routes("x" * HUGE, WRONG)], nonce))


async def a_huge_response(liar, nonce):
    # a truth may be as long
    huge = routes("others", WRONG)
    huge.virtual_hosts[0].name = "x" * HUGE
    await liar.send(liar.response(RDS, liar.truth.resources(RDS) + [huge], nonce))


async def a_message_that_is_none(liar, nonce):
    del nonce
    await liar.send(b"\xff" * 100)


async def a_message_that_is_cut_off(liar, nonce):
    whole = liar.response(RDS, [routes("routes", WRONG)], nonce)
    await liar.send(whole[:-3])


async def a_stream_that_ends(liar, nonce):
    del nonce
    liar.stream.hung_up.set()
    await liar.stream.until(lambda: False, "its end")


async def streams_that_end_after_each_response(liar, nonce):
    liar.hang_up = 6
    await a_stream_that_ends(liar, nonce)


async def silence(liar, nonce):
    before = liar.count
    liar.silent = True
    await a_stream_that_ends(liar, nonce)
    await liar.next_stream(before)
    silent = liar.stream
    await silent.until(lambda: silent.requests > 0, "a subscription")
    assert await liar.mark() == liar.truth.mark, "while nobody speaks"
    liar.silent = False
    await a_stream_that_ends(liar, nonce)


async def a_removal_of_what_is_not_there(liar, nonce):
    await liar.send(liar.response(CDS, [], nonce, removed=["nowhere", ""]))


async def a_removal_of_the_routes(liar, nonce):
    await liar.send(liar.response(RDS, [], nonce, removed=["routes"]))


async def an_update_and_a_removal_at_once(liar, nonce):
    await liar.send(liar.response(RDS, liar.truth.resources(RDS), nonce, removed=["routes"]))


async def a_change_of_nothing(liar, nonce):
    await liar.send(liar.response(CDS, [], nonce))


COMMON = [
    a_name_twice_among_routes,
    a_name_twice_among_clusters,
    a_name_twice_among_listeners,
    a_name_twice_among_endpoints,
    resources_of_another_type,
    resources_of_an_unknown_type,
    a_response_of_an_unknown_type,
    a_response_without_a_type,
    a_resource_that_is_cut_off,
    a_resource_that_is_noise,
    routes_that_nobody_asked_for,
    no_routes_at_all,
    routes_without_a_name,
    routes_that_break_a_constraint,
    a_cluster_without_a_name,
    a_listener_without_an_address,
    a_listener_with_an_unknown_filter,
    endpoints_without_an_address,
    endpoints_of_a_cluster_that_is_not_there,
    an_old_nonce,
    no_nonce,
    the_same_response_three_times,
    another_truth_with_the_same_version,
    a_huge_name,
    a_huge_response,
    a_message_that_is_none,
    a_message_that_is_cut_off,
    a_stream_that_ends,
    streams_that_end_after_each_response,
    silence,
]

LIES = COMMON
DELTA_LIES = COMMON + [
    a_removal_of_what_is_not_there,
    a_removal_of_the_routes,
    an_update_and_a_removal_at_once,
    a_change_of_nothing,
]

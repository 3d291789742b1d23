package peer;

import java.util.Map;

/** The states of a job, in the order of its life, and which follows which. */
enum State {
  CREATED, ACTIVE, RETRY, COMPLETED, FAILED, CANCELLED, EXPIRED;

  static final State[] ALL = values();

  private static final Map<String, State> OF_TYPE =
      Map.of(
          "job.created", CREATED, "job.active", ACTIVE, "job.retry", RETRY,
          "job.completed", COMPLETED, "job.failed", FAILED, "job.cancelled", CANCELLED,
          "job.expired", EXPIRED);

  /** Returns the state that events of a type put a job in; null where they change none. */
  static State ofType(String type) {
    return OF_TYPE.get(type);
  }

  boolean ended() {
    return compareTo(COMPLETED) >= 0;
  }

  /** Tells whether an event may take a job from this state to another. */
  boolean allows(State target, boolean higherAttempt) {
    switch (this) {
      case CREATED:
        return target != CREATED;
      case ACTIVE:
        return target == ACTIVE ? higherAttempt : target != CREATED;
      case RETRY:
        return target != CREATED && target != RETRY;
      case FAILED:
      case EXPIRED:
        return target == RETRY || (target == ACTIVE && higherAttempt);
      case CANCELLED:
        return target == CREATED || (target == ACTIVE && higherAttempt);
      default:
        return false;
    }
  }
}
